import type { ISessionContext } from '@jupyterlab/apputils';
import type { Kernel } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';
import type { IKernelPlace, IProject, IProjectDetails, IProjectsModel } from './tokens';

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

  /** What takes a question to the container: as it was when somebody last wanted it, else null. */
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
    this.changed.emit();
  }

  private _kernel = '';
  private _isNew = false;
  private _details: IProjectDetails | null = null;
  private _isDisposed = false;
}
