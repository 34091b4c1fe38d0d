import { Clipboard, MainAreaWidget, ReactWidget } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { LabIcon } from '@jupyterlab/ui-components';
import { Button, copyIcon, InputGroup, stopIcon, ToolbarButtonComponent } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import { Panel, Widget } from '@lumino/widgets';
import React from 'react';
import { Coalesced } from './coalesced';
import { containerIcon } from './icons';
import type { IJob, IProjectsModel } from './tokens';
import { CommandIDs } from './tokens';
import { failureOf, isFailure, isOver, lineOf, phaseOf, plain, titleOf } from './words';

/** Pixels from the end within which a reader counts as following. */
const NEAR = 40;

/** The text of a log: it grows, follows its end while the reader is there, and can be searched. */
export class LogText extends Widget {
  constructor(label: string) {
    super({ node: document.createElement('pre') });
    this.addClass('jp-ds01-LogText');
    this.node.tabIndex = 0;
    this.node.setAttribute('role', 'log');
    this.node.setAttribute('aria-live', 'off');
    this.node.setAttribute('aria-label', label);
    this._rest = this.node.appendChild(document.createElement('div'));
    this.node.addEventListener('scroll', () => {
      const { scrollHeight, scrollTop, clientHeight } = this.node;
      this._follows = scrollHeight - scrollTop - clientHeight < NEAR;
    });
    this._resized.observe(this.node);
  }

  override dispose(): void {
    this._resized.disconnect();
    super.dispose();
  }

  append(text: string): void {
    if (text === '') {
      return;
    }
    const { node } = this;
    const whole = this._open + text;
    const end = whole.lastIndexOf('\n') + 1;
    if (end > 0) {
      const block = document.createElement('div');
      block.textContent = plain(whole.slice(0, end));
      node.insertBefore(block, this._rest);
    }
    this._open = whole.slice(end);
    this._rest.textContent = plain(this._open);
    this.follow();
  }

  get text(): string {
    return this.node.textContent;
  }

  /** Select the next place, after the one that is selected, where the words stand; false for none. */
  find(words: string): boolean {
    const places = this.places(words.toLowerCase());
    if (places.length === 0) {
      this._found = -1;
      return false;
    }
    this._found = words === this._sought ? (this._found + 1) % places.length : 0;
    this._sought = words;
    const range = places[this._found];
    const selection = document.getSelection();
    selection?.removeAllRanges();
    selection?.addRange(range);
    range.startContainer.parentElement?.scrollIntoView({ block: 'nearest' });
    const { top, bottom } = range.getBoundingClientRect();
    const seen = this.node.getBoundingClientRect();
    if (top < seen.top || bottom > seen.bottom) {
      this.node.scrollTop += top - seen.top - seen.height / 2;
    }
    return true;
  }

  private follow(): void {
    if (this._follows) {
      this.node.scrollTop = this.node.scrollHeight;
    }
  }

  private places(words: string): Range[] {
    const found: Range[] = [];
    for (const block of words ? this.node.children : []) {
      const node = block.firstChild;
      const text = block.textContent.toLowerCase();
      for (
        let at = text.indexOf(words);
        at >= 0 && node !== null;
        at = text.indexOf(words, at + words.length)
      ) {
        const range = document.createRange();
        range.setStart(node, at);
        range.setEnd(node, at + words.length);
        found.push(range);
      }
    }
    return found;
  }

  private readonly _rest: HTMLElement;
  private readonly _resized = new ResizeObserver(() => this.follow());
  private _follows = true;
  /** The last line, as long as it is not whole. */
  private _open = '';
  private _found = -1;
  private _sought = '';
}

/** The log of one job, and how the job stands. */
export class LogPanel extends Panel {
  constructor(
    private readonly model: IProjectsModel,
    commands: CommandRegistry,
    readonly project: string,
    readonly job: string,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-ds01-Log');
    this.text = new LogText(trans.__('Log of %1', project));
    this._head = new Head(commands, trans);
    this.addWidget(this._head);
    this.addWidget(this.text);
    model.jobChanged.connect(this.onJob, this);
    void this.readJob();
    void this.read();
  }

  readonly text: LogText;

  override dispose(): void {
    this.model.jobChanged.disconnect(this.onJob, this);
    super.dispose();
  }

  private onJob(_: unknown, job: IJob): void {
    if (job.id === this.job) {
      this.showJob(job);
      void this.read();
    }
  }

  private async readJob(): Promise<void> {
    const known = this.model.jobs.find(({ id }) => id === this.job);
    try {
      this.showJob(known ?? (await this.model.server.job(this.project, this.job)));
    } catch (error) {
      this._head.problem = error instanceof Error ? error.message : String(error);
    }
  }

  private showJob(job: IJob): void {
    this._head.job = job;
    this.title.label = titleOf(job, this.trans);
  }

  private async read(): Promise<void> {
    try {
      await this._reading.run();
    } catch {
      // What there is stays; the next event, or the stream's return, reads on.
    }
  }

  private readonly _reading = new Coalesced(async () => {
    for (let more = true; more && !this.isDisposed;) {
      const { text, offset, done } = await this.model.server.log(this.project, this.job, this._offset);
      this._offset = offset;
      this.text.append(text);
      more = text !== '' && !done;
    }
  });

  private readonly _head: Head;
  private _offset = 0;
}

/** The panel with its tools. */
export function logWidget(
  content: LogPanel,
  commands: CommandRegistry,
  trans: TranslationBundle
): MainAreaWidget<LogPanel> {
  const widget = new MainAreaWidget({ content });
  widget.id = `ds01-log-${content.job}`;
  widget.title.label = trans.__('Log: %1', content.project);
  widget.title.icon = containerIcon;
  widget.title.closable = true;
  widget.addClass('jp-ds01-LogWidget');
  widget.toolbar.addItem('search', new Search(content.text, trans));
  const { project, job: id } = content;
  const copy = tool(copyIcon, trans.__('Copy'), trans.__('Copy the whole log'), () =>
    Clipboard.copyToSystem(content.text.text)
  );
  const cancel = tool(stopIcon, trans.__('Cancel'), trans.__('Cancel what this log is about'), () =>
    commands.execute(CommandIDs.cancel, { project, id })
  );
  widget.toolbar.addItem('copy', copy);
  widget.toolbar.addItem('cancel', cancel);
  return widget;
}

function tool(icon: LabIcon, label: string, tooltip: string, run: () => unknown): Widget {
  const widget = ReactWidget.create(
    <ToolbarButtonComponent
      icon={icon}
      label={label}
      tooltip={tooltip}
      noFocusOnClick={false}
      onClick={() => void run()}
    />
  );
  widget.addClass('jp-ToolbarButton');
  return widget;
}

class Search extends ReactWidget {
  constructor(
    private readonly text: LogText,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-ds01-LogSearch');
  }

  override render(): React.ReactElement {
    return (
      <InputGroup
        type="search"
        placeholder={this.trans.__('Find (Enter: next)')}
        aria-label={this.trans.__('Find in the log')}
        rightIcon="ui-components:search"
        onKeyDown={event => {
          if (event.key === 'Enter') {
            const { currentTarget: input } = event;
            input.toggleAttribute('aria-invalid', !this.text.find(input.value));
            input.focus();
          }
        }}
      />
    );
  }
}

class Head extends ReactWidget {
  constructor(
    private readonly commands: CommandRegistry,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-ds01-LogHead');
  }

  set job(job: IJob) {
    this._job = job;
    this.update();
  }

  set problem(problem: string) {
    this._problem = problem;
    this.update();
  }

  override render(): React.ReactElement {
    const job = this._job;
    if (job === null) {
      return <div role="alert">{this._problem}</div>;
    }
    const state = isOver(job) ? job.phase : 'running';
    const place = isFailure(job) ? lineOf(job, this.trans) : null;
    return (
      <div role="status" data-state={state}>
        <strong>{titleOf(job, this.trans)}</strong> {phaseOf(job, this.trans)}
        {isFailure(job) && <p className="jp-ds01-error">{failureOf(job, this.trans)}</p>}
        {place !== null && (
          <Button small className="jp-mod-styled" onClick={() => void this.openAt(job.project, place.line)}>
            {place.label}
          </Button>
        )}
      </div>
    );
  }

  private openAt(project: string, line: number): Promise<unknown> {
    return this.commands.execute(CommandIDs.openDockerfile, { project, line });
  }

  private _job: IJob | null = null;
  private _problem = '';
}
