import { Notification } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { IJob, IProjectsModel } from './tokens';
import { CommandIDs } from './tokens';
import { failureOf, isFailure, isOver, phaseOf, titleOf } from './words';

/** Milliseconds for which a success is shown. */
const SHOWN = 8000;

/** One notification for each job, from its beginning, or this page's, to its end. */
export class JobNotes {
  constructor(
    model: IProjectsModel,
    private readonly commands: CommandRegistry,
    private readonly trans: TranslationBundle
  ) {
    model.jobChanged.connect((_, job) => this.show(job));
    model.jobs.filter(job => !isOver(job)).forEach(job => this.show(job));
  }

  private show(job: IJob): void {
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
    if (isFailure(job)) {
      const message = `${trans.__('%1 failed.', title)} ${failureOf(job, trans)}`;
      return { message, type: 'error', autoClose: false, actions: [log] };
    }
    const message = `${title}: ${phaseOf(job, trans)}`;
    if (isOver(job)) {
      return {
        message,
        type: job.phase === 'cancelled' ? 'warning' : 'success',
        autoClose: SHOWN,
        actions: [log]
      };
    }
    const { step, steps } = job.progress;
    const actions = [log, this.action(trans.__('Cancel'), CommandIDs.cancel, job)];
    const progress = steps > 0 ? step / steps : undefined;
    return { message, type: 'in-progress', autoClose: false, actions, progress };
  }

  private action(label: string, command: string, job: IJob): Notification.IAction {
    return {
      label,
      callback: event => {
        // It goes on, and is still to be seen.
        event.preventDefault();
        void this.commands.execute(command, { project: job.project, id: job.id });
      }
    };
  }

  private readonly _notes = new Map<string, string>();
}

interface INote {
  readonly message: string;
  readonly type: Notification.TypeOptions;
  readonly autoClose: number | false;
  readonly actions: Notification.IAction[];
  readonly progress?: number;
}
