/** What is said about projects and jobs: text only, so that all views use the same words. */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { ICounts, IJob, IProject, JobKind, JobPhase } from './tokens';

const ENDS: ReadonlySet<JobPhase> = new Set(['done', 'failed', 'cancelled', 'rolled-back']);

export function isOver(job: IJob): boolean {
  return ENDS.has(job.phase);
}

/** Whether it went wrong, so that somebody has to know. */
export function isFailure(job: IJob): boolean {
  return job.phase === 'failed';
}

/** How many packages a Dockerfile does not have as the container has them. */
export function total(counts: ICounts | null): number {
  return counts === null ? 0 : counts.added + counts.changed + counts.removed;
}

/** The state of a project's container, in one or two words. */
export function stateOf(project: IProject, trans: TranslationBundle): string {
  switch (project.state) {
    case 'running':
      return project.node ? trans.__('running on %1', project.node) : trans.__('running');
    case 'dead':
      return trans.__('lost');
    case 'paused':
      return trans.__('paused');
    case 'restarting':
      return trans.__('restarting');
    case 'missing':
      return trans.__('no container');
    case 'unknown':
      return trans.__('not known');
    case null:
      return trans.__('not usable');
    default:
      return trans.__('stopped');
  }
}

export function kindOf(kind: JobKind, trans: TranslationBundle): string {
  switch (kind) {
    case 'install':
      return trans.__('Install');
    case 'restore':
      return trans.__('Restore');
    case 'build':
      return trans.__('Build');
    case 'rebuild':
      return trans.__('Rebuild');
    case 'rollback':
      return trans.__('Rollback');
    case 'deploy':
      return trans.__('Start');
    case 'retire':
      return trans.__('Retire');
    case 'restart':
      return trans.__('Restart');
  }
}

/** "Rebuild of thesis", as the title of all that is shown about a job. */
export function titleOf(job: IJob, trans: TranslationBundle): string {
  return trans.__('%1: %2', kindOf(job.kind, trans), job.project);
}

/** Where a job is: "building, step 2 of 5: RUN pip install six". */
export function phaseOf(job: IJob, trans: TranslationBundle): string {
  const { step, steps, name } = job.progress;
  const phase = job.cancelling && !isOver(job) ? trans.__('cancelling') : phaseWord(job.phase, trans);
  if (isOver(job)) {
    return phase;
  }
  const counted = steps > 0 ? trans.__('%1, step %2 of %3', phase, step, steps) : phase;
  return name ? trans.__('%1: %2', counted, name) : counted;
}

/** What is to be told of a failure: that nothing has changed, first, as notifications are cut; and why. */
export function failureOf(job: IJob, trans: TranslationBundle): string {
  const message = job.error?.message ?? '';
  return changesImage(job) ? `${trans.__('Everything is as it was.')} ${message}` : message;
}

/** A size as people read it: "512 MiB". */
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const at = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), units.length - 1);
  const value = bytes / 1024 ** at;
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${units[at]}`;
}

/** A time as people say it: "3 hours". */
export function span(milliseconds: number, trans: TranslationBundle): string {
  const minutes = Math.floor(milliseconds / 60_000);
  if (minutes < 1) {
    return trans.__('less than a minute');
  }
  if (minutes < 60) {
    return trans._n('%1 minute', '%1 minutes', minutes);
  }
  const hours = Math.floor(minutes / 60);
  return hours < 48
    ? trans._n('%1 hour', '%1 hours', hours)
    : trans._n('%1 day', '%1 days', Math.floor(hours / 24));
}

/** What leads from a failed build to the line that failed; null where none is known. */
export function lineOf(job: IJob, trans: TranslationBundle): { line: number; label: string } | null {
  const line = job.error?.line;
  return line === undefined ? null : { line, label: trans.__('Open Dockerfile at Line %1', line) };
}

// A cleaned log still has its colours: https://en.wikipedia.org/wiki/ANSI_escape_code#SGR
// eslint-disable-next-line no-control-regex
const COLOURS = /\u001b\[[0-9;:]*m/g;

/** The text without colours, and of a line that was overwritten (a progress bar) the last state only. */
export function plain(text: string): string {
  return text
    .replace(COLOURS, '')
    .replace(/\r\n/g, '\n')
    .replace(/[^\n]*\r(?!$)/g, '');
}

/** Whether the Dockerfile, the image and the container are exchanged by it. */
export function changesImage(job: IJob): boolean {
  return job.kind === 'rebuild' || job.kind === 'rollback' || job.kind === 'build';
}

function phaseWord(phase: JobPhase, trans: TranslationBundle): string {
  switch (phase) {
    case 'waiting':
      return trans.__('waiting');
    case 'edit':
      return trans.__('writing the Dockerfile');
    case 'build':
      return trans.__('building');
    case 'check':
      return trans.__('checking');
    case 'swap':
      return trans.__('exchanging the container');
    case 'restart':
      return trans.__('restarting kernels');
    case 'done':
      return trans.__('done');
    case 'failed':
      return trans.__('failed');
    case 'cancelled':
      return trans.__('cancelled');
    case 'rolled-back':
      return trans.__('rolled back');
  }
}
