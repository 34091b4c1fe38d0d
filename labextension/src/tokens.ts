/**
 * What the parts of this extension expect of one another, and the shapes of the server's answers.
 *
 * The shapes are those of `openapi.yaml`, where each field is explained.
 */
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { Token } from '@lumino/coreutils';
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';

export interface ICounts {
  readonly added: number;
  readonly changed: number;
  readonly removed: number;
}

export interface IProject {
  readonly name: string;
  readonly path: string;
  readonly contents_path: string | null;
  readonly kernel_name: string | null;
  readonly image: string | null;
  readonly container: string | null;
  readonly state: string | null;
  readonly node: string | null;
  readonly drift: ICounts | null;
  readonly lost: ICounts | null;
  readonly error: string | null;
}

export interface IPython {
  readonly executable: string;
  readonly version: readonly number[];
  readonly ipykernel: string | null;
}

export interface ILimits {
  readonly memory: number | null;
  readonly cpus: number | null;
  readonly shm_size: number | null;
  readonly pids_limit: number | null;
}

export interface IMemory {
  readonly used: number | null;
  readonly limit: number | null;
}

export interface IGpus {
  /** Null for all there are. */
  readonly count: number | null;
  readonly ids: readonly string[];
}

export interface IProjectDetails extends IProject {
  readonly built: boolean;
  readonly outdated: boolean;
  readonly python: IPython | null;
  readonly pip: string | null;
  readonly kernels: number | null;
  readonly engine: { readonly name?: string; readonly version?: string };
  readonly limits: ILimits;
  readonly created: string | null;
  readonly started: string | null;
  readonly memory: IMemory | null;
  readonly gpus: IGpus | null;
}

export interface IKernelPlace {
  readonly id: string;
  readonly project: string | null;
  readonly is_on_host: boolean;
}

export interface IPackage {
  readonly name: string;
  readonly version: string;
  readonly requested: boolean;
  readonly location: string;
}

export interface IDependency {
  readonly name: string;
  readonly version: string;
  readonly from?: string;
}

export interface IDriftItem {
  readonly name: string;
  readonly version: string;
  readonly from?: string;
  readonly requested: boolean;
  readonly dependencies: readonly IDependency[];
  readonly reason?: string;
}

export interface IDrift {
  readonly added: readonly IDriftItem[];
  readonly changed: readonly IDriftItem[];
  readonly removed: readonly IDriftItem[];
  readonly unpinnable: readonly IDriftItem[];
}

export interface IPackages {
  readonly python: string | null;
  readonly running: boolean;
  readonly packages: readonly IPackage[];
  readonly broken: readonly { readonly path: string; readonly reason: string }[];
  readonly drift: IDrift;
  readonly lost: IDrift;
}

export interface IPreviewKernel {
  readonly id: string;
  readonly name: string;
  readonly path: string;
  readonly state: string;
}

export interface IPlan {
  readonly file: string;
  readonly sha256: string;
  readonly result_sha256: string;
  readonly diff: string;
  readonly packages: readonly string[];
  readonly removed: readonly string[];
  readonly unpinnable: readonly { readonly name: string; readonly reason: string }[];
}

export interface IPreview extends IPlan {
  readonly stops_first: string;
  readonly kernels: readonly IPreviewKernel[];
}

/** Which packages a save or a rebuild writes: all of the drift where `packages` is left out. */
export interface IChoice {
  readonly packages?: readonly string[];
  readonly pin?: boolean;
}

/** A choice, with the sums of the preview in which it was made. */
export interface ISaveOrder extends IChoice {
  readonly sha256: string;
  readonly result_sha256: string;
}

export interface IRebuildOrder extends ISaveOrder {
  /** The ids of the kernels that may be restarted. */
  readonly kernels: readonly string[];
}

export type JobKind =
  'install' | 'restore' | 'build' | 'rebuild' | 'rollback' | 'deploy' | 'retire' | 'restart';

export type JobPhase =
  | 'waiting'
  | 'edit'
  | 'build'
  | 'check'
  | 'swap'
  | 'restart'
  | 'done'
  | 'failed'
  | 'cancelled'
  | 'rolled-back';

export interface IJobError {
  readonly message: string;
  readonly reason: string;
  readonly line?: number;
}

export interface IJob {
  readonly id: string;
  readonly project: string;
  readonly kind: JobKind;
  readonly phase: JobPhase;
  readonly progress: { readonly step: number; readonly steps: number; readonly name: string };
  readonly error: IJobError | null;
  readonly started: string;
  readonly ended: string | null;
  readonly cancelling: boolean;
}

export interface IJobLog {
  readonly text: string;
  readonly offset: number;
  readonly done: boolean;
}

export interface IFinding {
  readonly check: string;
  readonly level: 'error' | 'warning' | 'notice' | 'ok';
  readonly message: string;
  readonly remedy: string;
}

/** What starts a job without being told more than the project. */
export type Action = 'deploy' | 'restart' | 'rollback' | 'restore';

/** The calls of the server. Each rejects with a `RequestError` whose message can be shown. */
export interface IServer {
  projects(): Promise<readonly IProject[]>;
  project(name: string): Promise<IProjectDetails>;
  create(name: string, template: string): Promise<IProject>;
  kernels(): Promise<readonly IKernelPlace[]>;
  doctor(project: string): Promise<readonly IFinding[]>;
  packages(project: string): Promise<IPackages>;
  install(project: string, specs: readonly string[]): Promise<string>;
  preview(project: string, choice: IChoice): Promise<IPreview>;
  save(project: string, order: ISaveOrder): Promise<IPlan>;
  rebuild(project: string, order: IRebuildOrder): Promise<string>;
  act(project: string, action: Action): Promise<string>;
  retire(project: string, force: boolean): Promise<string>;
  terminal(project: string): Promise<string>;
  /** Those that run, and those that have just ended. */
  recentJobs(): Promise<readonly IJob[]>;
  jobs(project: string): Promise<readonly IJob[]>;
  job(project: string, id: string): Promise<IJob>;
  log(project: string, id: string, offset: number): Promise<IJobLog>;
  cancel(project: string, id: string): Promise<IJob>;
}

/** An event of ours on Jupyter's bus: a hint that something is to be read. */
export interface IServerEvent {
  readonly kind: 'drift' | 'job' | 'container';
  readonly project: string;
  /** The job's id; empty for other kinds. */
  readonly id: string;
}

export interface IServerEvents {
  readonly emitted: ISignal<unknown, IServerEvent>;
  /** The stream is there, for the first time or again: what happened before was not told. */
  readonly opened: ISignal<unknown, void>;
}

/** What is known of the projects. It reads when something has changed, and never on a clock. */
export interface IProjectsModel extends IDisposable {
  readonly server: IServer;
  /** Resolves when the first answer is there, or has failed. */
  readonly ready: Promise<void>;
  /** Sorted by name. */
  readonly projects: readonly IProject[];
  /** Why the projects could not be read, as a sentence; empty when they could. */
  readonly problem: string;
  /** Projects, their problem or the places of kernels are not what they were. */
  readonly changed: ISignal<IProjectsModel, void>;
  /** The jobs that run, and those that ended while this page was open. */
  readonly jobs: readonly IJob[];
  /** A job is new, has got on, or has written to its log. */
  readonly jobChanged: ISignal<IProjectsModel, IJob>;
  find(name: string): IProject | undefined;
  /** The project in which the file or folder lies, by its path in Jupyter's contents. */
  owner(path: string): IProject | undefined;
  /** Where a kernel runs; undefined while that is not known, and for kernels that are not ours to know. */
  placeOf(kernel: string): IKernelPlace | undefined;
  /** The job that changes this project just now. */
  running(project: string): IJob | undefined;
  refresh(): Promise<void>;
  refreshKernels(): Promise<void>;
  /** Read a job that has just been started, so that it is shown at once. */
  follow(project: string, id: string): Promise<void>;
}

export const IProjectsModel = new Token<IProjectsModel>(
  '@ds01/kernels:IProjectsModel',
  'What is known of the projects, their containers and what is done to them.'
);

/** The project that the user is working in: that of the current notebook, console or file. */
export interface ICurrentProject {
  readonly project: IProject | null;
  readonly changed: ISignal<ICurrentProject, void>;
}

export const ICurrentProject = new Token<ICurrentProject>(
  '@ds01/kernels:ICurrentProject',
  'The project that the user is working in.'
);

export type Arguments = ReadonlyPartialJSONObject;

/** What a command does to the project of that name; `args` are those that it was called with. */
export type OnProject = (project: string, args: Arguments) => Promise<void>;

/** Puts commands into JupyterLab's registry, and each into the palette. */
export interface IProjectCommands {
  /** One that needs nothing to be told. */
  add(id: string, label: string, run: () => Promise<void> | void, isEnabled?: () => boolean): void;
  /** One on the project that its argument `project` names, else on the current one; `schema`: what else it takes. */
  addForProject(id: string, label: string, run: OnProject, schema?: Arguments): void;
}

export const IProjectCommands = new Token<IProjectCommands>(
  '@ds01/kernels:IProjectCommands',
  'Puts commands on projects into the registry and the palette.'
);

/** The translation domain of all our texts. */
export const DOMAIN = 'ds01_kernels';

export namespace CommandIDs {
  export const where = 'ds01-kernels:where';
  export const rebuild = 'ds01-kernels:rebuild';
  export const showLog = 'ds01-kernels:show-log';
  export const cancel = 'ds01-kernels:cancel';
  export const showPanel = 'ds01-kernels:show-panel';
  export const refresh = 'ds01-kernels:refresh';
  export const install = 'ds01-kernels:install';
  export const save = 'ds01-kernels:save';
  export const rollback = 'ds01-kernels:rollback';
  export const restart = 'ds01-kernels:restart-container';
  export const retire = 'ds01-kernels:retire-container';
  export const restore = 'ds01-kernels:restore';
  export const start = 'ds01-kernels:start-container';
  export const openDockerfile = 'ds01-kernels:open-dockerfile';
  export const terminal = 'ds01-kernels:terminal';
  export const doctor = 'ds01-kernels:doctor';
  export const create = 'ds01-kernels:create-project';
}
