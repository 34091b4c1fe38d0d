import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import { Widget } from '@lumino/widgets';
import type { IJob, IProjectsModel } from './tokens';
import { CommandIDs } from './tokens';
import { failureOf, isFailure, isOver } from './words';

export const MISSING = 'application/vnd.ds01-kernels.missing+json';

interface IMissing {
  readonly module: string;
  readonly package: string;
  readonly project: string;
}

/** Under a traceback: which package a missing module is in, and a button that installs it. */
export class Hint extends Widget implements IRenderMime.IRenderer {
  constructor(
    private readonly model: IProjectsModel,
    private readonly commands: CommandRegistry,
    private readonly hasButton: boolean,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-ds01-Hint');
  }

  override dispose(): void {
    this.model.jobChanged.disconnect(this.onJob, this);
    super.dispose();
  }

  renderModel(mime: IRenderMime.IMimeModel): Promise<void> {
    const missing = read(mime.data[MISSING]);
    const said = mime.data['text/plain'];
    const sentence = document.createElement('span');
    sentence.textContent = typeof said === 'string' ? said : '';
    this.node.replaceChildren(sentence);
    if (this.hasButton && missing !== null && this.model.find(missing.project) !== undefined) {
      this.node.append(this.button(missing), this._state);
      this._state.setAttribute('role', 'status');
      this.model.jobChanged.connect(this.onJob, this);
    }
    return Promise.resolve();
  }

  private button({ package: name, project }: IMissing): HTMLButtonElement {
    const button = document.createElement('button');
    button.className = 'jp-Button jp-mod-styled jp-mod-accept jp-mod-small';
    // A notebook can say anything here, so what the button does stands on it.
    button.textContent = this.trans.__('Install %1 in the container of %2', name, project);
    button.addEventListener('click', () => {
      this._waits = project;
      void this.commands.execute(CommandIDs.install, { project, specs: [name] });
    });
    return button;
  }

  private onJob(_: unknown, job: IJob): void {
    if (job.project !== this._waits || job.kind !== 'install') {
      return;
    }
    const { trans } = this;
    if (!isOver(job)) {
      this._state.textContent = trans.__('Installing…');
      return;
    }
    this._waits = '';
    this._state.textContent = isFailure(job)
      ? failureOf(job, trans)
      : job.phase === 'done'
        ? trans.__('Installed. Run the cell again.')
        : trans.__('Cancelled.');
  }

  private readonly _state = document.createElement('span');
  /** The project in which this one's button has begun something. */
  private _waits = '';
}

/** What the kernel said, if it can be: it runs code that nobody has checked. */
export function read(value: unknown): IMissing | null {
  if (typeof value !== 'object' || value === null) {
    return null;
  }
  const { module, package: name, project } = value as Record<string, unknown>;
  const isName = typeof name === 'string' && /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/.test(name);
  return isName && typeof project === 'string' && typeof module === 'string'
    ? { module, package: name, project }
    : null;
}
