import { Notification } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IStateDB } from '@jupyterlab/statedb';
import type { CommandRegistry } from '@lumino/commands';
import type { Options } from './options';
import type { Arguments, IJob, IProjectsModel } from './tokens';
import { CommandIDs } from './tokens';
import { failureOf, isFailure, isOver, lineOf, phaseOf, titleOf } from './words';

/** Under which the page's state keeps the jobs that have not ended. */
const KEY = 'ds01-kernels:jobs';
/** Milliseconds for which a success is shown. */
const SHOWN = 8000;

/** `notifications`: of which jobs there are any, "all", "failures" or "none"; `logs`: where logs are opened. */
export interface INoteOptions extends Readonly<Record<string, string>> {
  readonly notifications: string;
  readonly logs: string;
}

/** One notification for each job, from its beginning, or this page's, to its end. */
export class JobNotes {
  constructor(
    private readonly model: IProjectsModel,
    private readonly commands: CommandRegistry,
    private readonly options: Options<INoteOptions>,
    private readonly trans: TranslationBundle,
    private readonly state: IStateDB | null
  ) {
    model.jobChanged.connect((_, job) => this.show(job));
    model.jobs.forEach(job => this.show(job));
    void this.recall();
  }

  /** Tell how those ended that ran when this page, or one before it, was left. */
  private async recall(): Promise<void> {
    await this.model.ready;
    const kept = await this.state?.fetch(KEY);
    for (const one of Array.isArray(kept) ? kept : []) {
      if (typeof one === 'string' && one.includes(' ')) {
        // Ids have no spaces; names may.
        const at = one.indexOf(' ');
        this._recalled.add(one.slice(0, at));
        await this.model.follow(one.slice(at + 1), one.slice(0, at));
      }
    }
  }

  private remember(): void {
    const open = this.model.jobs.filter(job => !isOver(job)).map(({ id, project }) => `${id} ${project}`);
    if (open.join() !== this._kept) {
      this._kept = open.join();
      void this.state?.save(KEY, open);
    }
  }

  private show(job: IJob): void {
    if (this.isWanted(job)) {
      this.tell(job);
    }
    this.remember();
  }

  private isWanted(job: IJob): boolean {
    const { notifications } = this.options.values;
    return notifications === 'all' || (notifications === 'failures' && isFailure(job));
  }

  private tell(job: IJob): void {
    const shown = this.noteOf(job);
    const id = this._notes.get(job.id);
    const hasIt = id !== undefined && Notification.manager.has(id);
    if (hasIt) {
      Notification.manager.update({ id, ...shown });
    } else if (id === undefined || isOver(job)) {
      // One that was dismissed stays away until there is an end to tell.
      const { message, type, ...options } = shown;
      this._notes.set(job.id, Notification.manager.notify(message, type, options));
    }
    if (isOver(job)) {
      this._notes.delete(job.id);
    }
  }

  private noteOf(job: IJob): INote {
    const { trans } = this;
    const title = titleOf(job, trans);
    const log = this.action(trans.__('Show Log'), CommandIDs.showLog, job);
    const place = lineOf(job, trans);
    if (isFailure(job)) {
      const message = `${trans.__('%1 failed.', title)} ${failureOf(job, trans)}`;
      const actions =
        place === null
          ? [log]
          : [log, this.action(place.label, CommandIDs.openDockerfile, job, { line: place.line })];
      return { message, type: 'error', autoClose: false, actions };
    }
    const message = `${title}: ${phaseOf(job, trans)}`;
    if (isOver(job)) {
      return {
        message,
        type: job.phase === 'cancelled' ? 'warning' : 'success',
        // What went well before this page was there is to be found, and disturbs nobody.
        autoClose: this.isOld(job) ? 0 : SHOWN,
        actions: [log]
      };
    }
    const { step, steps } = job.progress;
    const actions = [log, this.action(trans.__('Cancel'), CommandIDs.cancel, job)];
    const progress = steps > 0 ? step / steps : undefined;
    return { message, type: 'in-progress', autoClose: false, actions, progress };
  }

  private isOld(job: IJob): boolean {
    const ended = job.ended === null ? NaN : Date.parse(job.ended);
    return ended < this._since && !this._recalled.has(job.id);
  }

  private action(label: string, command: string, job: IJob, more: Arguments = {}): Notification.IAction {
    return {
      label,
      callback: event => {
        // It goes on, and is still to be seen.
        event.preventDefault();
        void this.commands.execute(command, { project: job.project, id: job.id, ...more });
      }
    };
  }

  private _kept = '';
  private readonly _since = Date.now();
  private readonly _recalled = new Set<string>();
  private readonly _notes = new Map<string, string>();
}

interface INote {
  readonly message: string;
  readonly type: Notification.TypeOptions;
  readonly autoClose: number | false;
  readonly actions: Notification.IAction[];
  readonly progress?: number;
}
