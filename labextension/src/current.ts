import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { DocumentWidget } from '@jupyterlab/docregistry';
import { NotebookPanel } from '@jupyterlab/notebook';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import type { Widget } from '@lumino/widgets';
import type { ICurrentProject, IProject, IProjectsModel } from './tokens';

/** Follows the shell: the project of the current notebook's kernel, else of the file, else of the folder. */
export class CurrentProject implements ICurrentProject {
  constructor(
    private readonly shell: JupyterFrontEnd.IShell,
    private readonly model: IProjectsModel,
    private readonly browser: IDefaultFileBrowser | null
  ) {
    shell.currentChanged?.connect(this.look, this);
    browser?.model.pathChanged.connect(this.look, this);
    model.changed.connect(this.look, this);
    this.look();
  }

  get project(): IProject | null {
    return this._project;
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  private look(): void {
    const project = this.find();
    if (project !== this._project) {
      this._project = project;
      this._changed.emit();
    }
  }

  private find(): IProject | null {
    const widget = this.shell.currentWidget;
    const named = widget === null ? undefined : kernelOf(widget);
    const place = named === undefined ? undefined : this.model.placeOf(named);
    const byKernel = place?.project ? this.model.find(place.project) : undefined;
    const path = widget instanceof DocumentWidget ? widget.context.path : this.browser?.model.path;
    return byKernel ?? (path === undefined ? undefined : this.model.owner(path)) ?? null;
  }

  private _project: IProject | null = null;
  private readonly _changed = new Signal<this, void>(this);
}

function kernelOf(widget: Widget): string | undefined {
  return widget instanceof NotebookPanel ? widget.sessionContext.session?.kernel?.id : undefined;
}
