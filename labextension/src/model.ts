import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import { Coalesced } from './coalesced';
import type {
  IJob,
  IKernelPlace,
  IProject,
  IProjectsModel,
  IServer,
  IServerEvent,
  IServerEvents
} from './tokens';
import { isOver } from './words';

/** How many jobs that are over are remembered. */
const MOST_KEPT = 50;

export class ProjectsModel implements IProjectsModel {
  constructor(
    readonly server: IServer,
    events: IServerEvents
  ) {
    events.emitted.connect(this.onEvent, this);
    events.opened.connect(this.onOpened, this);
    this.ready = this.refresh();
  }

  readonly ready: Promise<void>;

  get projects(): readonly IProject[] {
    return this._projects;
  }

  get problem(): string {
    return this._problem;
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get jobs(): readonly IJob[] {
    return [...this._jobs.values()];
  }

  get jobChanged(): ISignal<this, IJob> {
    return this._jobChanged;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    this._isDisposed = true;
    Signal.clearData(this);
  }

  find(name: string): IProject | undefined {
    return this._projects.find(project => project.name === name);
  }

  owner(path: string): IProject | undefined {
    const inside = this._projects.filter(
      ({ contents_path: folder }) => folder !== null && (path === folder || path.startsWith(`${folder}/`))
    );
    return inside.sort((one, other) => length(other) - length(one))[0];
  }

  placeOf(kernel: string): IKernelPlace | undefined {
    return this._places.get(kernel);
  }

  running(project: string): IJob | undefined {
    return this.jobs.find(job => job.project === project && !isOver(job));
  }

  refresh(): Promise<void> {
    return this._all.run();
  }

  refreshKernels(): Promise<void> {
    return this._kernels.run();
  }

  async follow(project: string, id: string): Promise<void> {
    await this.readJob(project, id);
  }

  private onOpened(): void {
    void this.refresh();
  }

  private onEvent(_: unknown, event: IServerEvent): void {
    if (event.kind === 'job') {
      void this.readJob(event.project, event.id);
    } else {
      void this._list.run();
    }
  }

  private readonly _all = new Coalesced(async () => {
    await Promise.all([this._list.run(), this._kernels.run(), this.readRecentJobs()]);
  });

  private readonly _list = new Coalesced(async () => {
    try {
      this._projects = await this.server.projects();
      this._problem = '';
    } catch (error) {
      this._problem = sentence(error);
    }
    this.tell();
  });

  private readonly _kernels = new Coalesced(async () => {
    try {
      const places = await this.server.kernels();
      this._places = new Map(places.map(place => [place.id, place]));
    } catch {
      // The list of projects, read from the same server, says why.
      this._places = new Map();
    }
    this.tell();
  });

  private async readRecentJobs(): Promise<void> {
    let recent: readonly IJob[];
    try {
      recent = await this.server.recentJobs();
    } catch {
      return;
    }
    const known = new Set(recent.map(job => job.id));
    recent.forEach(job => this.keep(job));
    // What ended while nothing was heard of it.
    const missed = this.jobs.filter(job => !isOver(job) && !known.has(job.id));
    await Promise.all(missed.map(job => this.readJob(job.project, job.id)));
  }

  private async readJob(project: string, id: string): Promise<void> {
    let reading = this._readings.get(id);
    if (reading === undefined) {
      reading = new Coalesced(async () => this.keep(await this.server.job(project, id)));
      this._readings.set(id, reading);
    }
    try {
      await reading.run();
    } catch {
      // An event may name a job that there is not.
    }
    const job = this._jobs.get(id);
    if (job === undefined || isOver(job)) {
      this._readings.delete(id);
    }
  }

  private keep(job: IJob): void {
    const before = this._jobs.get(job.id);
    if (this._isDisposed || (before !== undefined && isOver(before))) {
      return;
    }
    this._jobs.set(job.id, job);
    for (const { id } of this.jobs.filter(isOver).slice(0, -MOST_KEPT)) {
      this._jobs.delete(id);
    }
    this._jobChanged.emit(job);
    if (isOver(job)) {
      // What it did to the container may have been told before it was done with the rest.
      void this._list.run();
      void this._kernels.run();
    }
  }

  private tell(): void {
    if (!this._isDisposed) {
      this._changed.emit();
    }
  }

  private _projects: readonly IProject[] = [];
  private _problem = '';
  private _places: ReadonlyMap<string, IKernelPlace> = new Map();
  private readonly _jobs = new Map<string, IJob>();
  private readonly _readings = new Map<string, Coalesced>();
  private readonly _changed = new Signal<this, void>(this);
  private readonly _jobChanged = new Signal<this, IJob>(this);
  private _isDisposed = false;
}

function length(project: IProject): number {
  return project.contents_path?.length ?? 0;
}

function sentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
