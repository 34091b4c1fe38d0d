import type { ISessionContext } from '@jupyterlab/apputils';
import { Dialog, ReactWidget, showDialog } from '@jupyterlab/apputils';
import type { Kernel } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import { Signal } from '@lumino/signaling';
import React from 'react';
import { containerIcon } from './icons';
import type { IKernelPlace, IProject, IProjectDetails, IProjectsModel } from './tokens';
import { size, stateOf } from './words';

/** Tells where a notebook's kernel runs, and follows it through restarts. */
export class KernelWatch {
  constructor(
    readonly sessionContext: ISessionContext,
    readonly model: IProjectsModel
  ) {
    sessionContext.kernelChanged.connect(this.onKernel, this);
    sessionContext.statusChanged.connect(this.onStatus, this);
    model.changed.connect(this.onModel, this);
    void this.readIfNew();
  }

  readonly changed = new Signal<this, void>(this);

  /** Null while there is no kernel, or none of which anything is known. */
  get place(): IKernelPlace | null {
    const kernel = this.sessionContext.session?.kernel?.id;
    return (kernel === undefined ? undefined : this.model.placeOf(kernel)) ?? null;
  }

  get project(): IProject | null {
    const name = this.place?.project;
    return (name ? this.model.find(name) : undefined) ?? null;
  }

  /** What takes a question to the container; read again when the container is another, or in another state. */
  get details(): IProjectDetails | null {
    const { project } = this;
    return project !== null && this._details?.name === project.name ? this._details : null;
  }

  async readDetails(): Promise<void> {
    const { project } = this;
    if (project === null) {
      return;
    }
    const details = await this.model.server.project(project.name);
    if (!this._isDisposed) {
      this._details = details;
      this.changed.emit();
    }
  }

  dispose(): void {
    this._isDisposed = true;
    Signal.clearData(this);
  }

  private onKernel(): void {
    void this.readIfNew();
  }

  private onStatus(_: unknown, status: Kernel.Status): void {
    if (status === 'restarting' || status === 'autorestarting' || status === 'starting') {
      this._isNew = true;
    } else if (status === 'idle' || status === 'busy') {
      void this.readIfNew();
    }
  }

  private async readIfNew(): Promise<void> {
    const kernel = this.sessionContext.session?.kernel?.id ?? '';
    if (kernel && (this._isNew || kernel !== this._kernel)) {
      this._isNew = false;
      this._kernel = kernel;
      await this.model.refreshKernels();
    }
    this.changed.emit();
  }

  private onModel(): void {
    const { project } = this;
    const seen = project === null ? '' : [project.name, project.container, project.state].join(' ');
    if (seen !== this._seen) {
      this._seen = seen;
      // The toolbar does without; the next change tries again.
      this.readDetails().catch(() => undefined);
    }
    this.changed.emit();
  }

  private _kernel = '';
  private _isNew = false;
  private _seen = '';
  private _details: IProjectDetails | null = null;
  private _isDisposed = false;
}

/** In the notebook's toolbar: the container, its state and the interpreter; or "host". */
export class PlaceItem extends ReactWidget {
  constructor(
    private readonly watch: KernelWatch,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-ds01-Place');
    watch.changed.connect(() => this.update());
  }

  override dispose(): void {
    this.watch.dispose();
    super.dispose();
  }

  override render(): React.ReactElement {
    const { place, project, details } = this.watch;
    const { trans } = this;
    if (place === null) {
      return <></>;
    }
    const open = () => void showPlace(this.watch, trans);
    if (project === null) {
      const label = place.is_on_host ? trans.__('host') : trans.__('no container');
      const title = facts(this.watch, trans).join('\n');
      return (
        <button className="jp-ds01-Place-button jp-mod-minimal" title={title} onClick={open}>
          <span className="jp-ds01-Place-host">{label}</span>
        </button>
      );
    }
    const state = stateOf(project, trans);
    const python = details?.python?.executable;
    return (
      <button
        className="jp-ds01-Place-button jp-mod-minimal"
        title={facts(this.watch, trans).join('\n')}
        aria-label={trans.__('Kernel in container %1, %2', project.container ?? project.name, state)}
        onClick={open}
      >
        <containerIcon.react tag="span" className="jp-ds01-Place-icon" aria-hidden={true} />
        <span className="jp-ds01-Place-name">{project.container ?? project.name}</span>
        <span className="jp-ds01-Place-state" data-state={project.state}>
          {state}
        </span>
        {python !== undefined && <span className="jp-ds01-Place-python">{python}</span>}
      </button>
    );
  }
}

/** A dialog with all that is known about where this kernel runs. */
export async function showPlace(watch: KernelWatch, trans: TranslationBundle): Promise<void> {
  await watch.readDetails().catch(() => undefined);
  const rows = facts(watch, trans);
  await showDialog({
    title: trans.__('Where this notebook runs'),
    body: ReactWidget.create(
      <ul className="jp-ds01-Facts">
        {rows.map(row => (
          <li key={row}>{row}</li>
        ))}
      </ul>
    ),
    buttons: [Dialog.okButton({ label: trans.__('Close') })]
  });
}

function facts(watch: KernelWatch, trans: TranslationBundle): string[] {
  const { place, project, details } = watch;
  if (place === null) {
    return [trans.__('No kernel runs, or it is not one that this extension knows.')];
  }
  if (project === null) {
    return place.is_on_host
      ? [trans.__('On the host: this kernel runs on the server itself, outside every container.')]
      : [trans.__('This kernel could not start in a container; its cells say why.')];
  }
  const lines = [
    trans.__('Project: %1', project.name),
    trans.__('Container: %1, %2', project.container ?? '', stateOf(project, trans)),
    trans.__('Image: %1', project.image ?? '')
  ];
  return details === null ? lines : [...lines, ...inDetail(details, trans)];
}

function inDetail(details: IProjectDetails, trans: TranslationBundle): string[] {
  const { python, limits, engine, kernels } = details;
  const lines: string[] = [];
  if (python !== null) {
    lines.push(trans.__('Python: %1 (%2)', python.executable, python.version.join('.')));
  }
  if (details.outdated) {
    lines.push(trans.__('The image is newer than this container.'));
  }
  const none = trans.__('no limit');
  lines.push(
    trans.__(
      'Limits: memory %1, CPUs %2',
      limits.memory === null ? none : size(limits.memory),
      limits.cpus === null ? none : String(limits.cpus)
    )
  );
  if (kernels !== null) {
    lines.push(trans._n('%1 kernel runs in it', '%1 kernels run in it', kernels));
  }
  if (engine.name) {
    lines.push(trans.__('Engine: %1 %2', engine.name, engine.version ?? ''));
  }
  return lines;
}
