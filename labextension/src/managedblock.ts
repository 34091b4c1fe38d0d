/** Finds the lines of a Dockerfile that Save and Rebuild write. */

/** Lines from 1, both included. */
export interface ILines {
  readonly first: number;
  readonly last: number;
}

// As the server finds it: DS01 looks at how the line begins, people write it with other case and blanks.
const HEADING = /^# Custom additional packages|^[ \t]*#[ \t]*custom additional packages[ \t]*:?[ \t]*$/i;
const COMMENT = /^[ \t]*#/;
const PIP = /^[ \t]*RUN\s(?:.*\s)?(?:pip[\d.]*|-m[ \t]+pip)\s+install\b/i;
const ROOT = /^[ \t]*USER[ \t]+root[ \t]*$/i;
const USER = /^[ \t]*USER[ \t]/i;

/**
 * The block, for the eyes: the server parses the file again before it writes, and it decides.
 *
 * Of the final stage it is the first heading with an install below it, else the first heading; null for none.
 */
export function managedBlock(lines: readonly string[]): ILines | null {
  const from = lines.map(line => /^[ \t]*FROM\s/i.test(line)).lastIndexOf(true);
  const headings = lines.flatMap((line, at) => (at > from && HEADING.test(line) ? [at] : []));
  for (const heading of headings) {
    let run = heading + 1;
    while (run < lines.length && COMMENT.test(lines[run])) {
      run++;
    }
    const last = endOf(lines, run);
    if (
      PIP.test(
        lines
          .slice(run, last + 1)
          .join('\n')
          .replace(/\\\n/g, ' ')
      )
    ) {
      return withUser(lines, heading, last);
    }
  }
  return headings.length > 0 ? { first: headings[0] + 1, last: headings[0] + 1 } : null;
}

/** The last line of the instruction that begins there. */
function endOf(lines: readonly string[], start: number): number {
  const escape = /^[ \t]*#[ \t]*escape[ \t]*=[ \t]*`/i.test(lines[0]) ? '`' : '\\';
  let at = start;
  while (at < lines.length - 1 && (COMMENT.test(lines[at]) || lines[at].trimEnd().endsWith(escape))) {
    at++;
  }
  return at;
}

/** With the lines that make root the user for the install, and then give the user back. */
function withUser(lines: readonly string[], heading: number, last: number): ILines {
  let after = last + 1;
  while (after < lines.length && lines[after].trim() === '') {
    after++;
  }
  const isWrapped = heading > 0 && ROOT.test(lines[heading - 1]) && USER.test(lines[after] ?? '');
  return isWrapped ? { first: heading, last: after + 1 } : { first: heading + 1, last: last + 1 };
}
