import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import { Coalesced } from './coalesced';
import type { IFinding, IJob, IPackage, IPackages, IProject, IProjectsModel } from './tokens';
import { isOver } from './words';

/** What the panel shows of one project, read while the panel can be seen. */
export class PanelModel {
  constructor(readonly projects: IProjectsModel) {
    projects.changed.connect(this.onProjects, this);
    projects.jobChanged.connect(this.onJob, this);
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get selected(): IProject | null {
    return this.projects.find(this._name) ?? null;
  }

  get packages(): IPackages | null {
    return this._packages;
  }

  get findings(): readonly IFinding[] | null {
    return this._findings;
  }

  get problem(): string {
    return this._problem;
  }

  get isVisible(): boolean {
    return this._isVisible;
  }

  set isVisible(visible: boolean) {
    this._isVisible = visible;
    this.onProjects();
  }

  /** Show that project, or none. */
  select(name: string): void {
    if (name !== this._name) {
      this._name = name;
      this._seen = '';
      this._packages = this._findings = null;
      this._problem = '';
      this.onProjects();
    }
  }

  async examine(): Promise<void> {
    const name = this._name;
    this._findings = await this.projects.server.doctor(name);
    this._changed.emit();
  }

  /** The names of packages that the Dockerfile does not have as they are. */
  get unsaved(): ReadonlySet<string> {
    const drift = this._packages?.drift;
    const items = drift ? [...drift.added, ...drift.changed, ...drift.unpinnable] : [];
    return new Set(items.flatMap(item => [item.name, ...item.dependencies.map(({ name }) => name)]));
  }

  private onJob(_: unknown, job: IJob): void {
    if (job.project === this._name && isOver(job)) {
      // Another container may stand there now, of the same name and in the same state.
      this._seen = '';
      this._findings = null;
    }
    this.onProjects();
  }

  private onProjects(): void {
    const { selected } = this;
    if (selected !== null && this._isVisible) {
      const { state, container, drift, lost } = selected;
      const seen = JSON.stringify([state, container, drift, lost]);
      if (seen !== this._seen) {
        this._seen = seen;
        void this._reading.run();
      }
    }
    this._changed.emit();
  }

  private readonly _reading = new Coalesced(async () => {
    const name = this._name;
    try {
      const packages = await this.projects.server.packages(name);
      if (name === this._name) {
        this._packages = packages;
        this._problem = '';
      }
    } catch (error) {
      this._problem = error instanceof Error ? error.message : String(error);
    }
    this._changed.emit();
  });

  private _name = '';
  private _seen = '';
  private _isVisible = false;
  private _packages: IPackages | null = null;
  private _findings: readonly IFinding[] | null = null;
  private _problem = '';
  private readonly _changed = new Signal<this, void>(this);
}

/** Those whose name holds the words; what was asked for first, then dependencies. */
export function found(packages: readonly IPackage[], query: string): readonly IPackage[] {
  const sought = query.trim().toLowerCase();
  const inName = packages.filter(({ name }) => name.includes(sought));
  return [...inName.filter(one => one.requested), ...inName.filter(one => !one.requested)];
}
