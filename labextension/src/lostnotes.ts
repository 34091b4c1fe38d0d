import { Notification } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { IJob, IProject, IProjectsModel } from './tokens';
import { CommandIDs } from './tokens';
import { total } from './words';

/** One notification for each loss, until it is made good, here or on another page. */
export class LostNotes {
  constructor(
    private readonly model: IProjectsModel,
    private readonly commands: CommandRegistry,
    private readonly trans: TranslationBundle
  ) {}

  look(): void {
    for (const project of this.model.projects) {
      const count = total(project.lost);
      const told = this._told.get(project.name) ?? 0;
      this._told.set(project.name, count);
      if (count > told || count === 0) {
        this.dismiss(project);
      }
      if (count > told) {
        this.tell(project, count);
      }
    }
  }

  private tell({ name: project }: IProject, count: number): void {
    const { trans, commands } = this;
    const message = trans._n(
      '%2: the container is gone, and %1 package that was not in the Dockerfile went with it.',
      '%2: the container is gone, and %1 packages that were not in the Dockerfile went with it.',
      count,
      project
    );
    const restore = () => commands.execute(CommandIDs.restore, { project });
    const id = Notification.warning(message, {
      autoClose: false,
      actions: [
        { label: trans.__('Restore'), callback: () => void restore() },
        { label: trans.__('Make Permanent'), callback: () => void this.restoreAndRebuild(project, restore) }
      ]
    });
    this._shown.set(project, id);
  }

  private dismiss({ name }: IProject): void {
    const id = this._shown.get(name);
    if (id !== undefined) {
      this._shown.delete(name);
      Notification.dismiss(id);
    }
  }

  /** What was lost has to be there again before a rebuild can write it. */
  private async restoreAndRebuild(project: string, restore: () => Promise<unknown>): Promise<void> {
    const onJob = (_: unknown, job: IJob): void => {
      if (job.project === project && job.kind === 'restore' && job.phase === 'done') {
        void this.commands.execute(CommandIDs.rebuild, { project });
      }
    };
    this.model.jobChanged.connect(onJob);
    try {
      await restore();
      await this.over(project);
    } finally {
      this.model.jobChanged.disconnect(onJob);
    }
  }

  private over(project: string): Promise<void> {
    return new Promise(resolve => {
      const look = (): void => {
        if (this.model.running(project) === undefined) {
          this.model.jobChanged.disconnect(look);
          resolve();
        }
      };
      this.model.jobChanged.connect(look);
      look();
    });
  }

  private readonly _told = new Map<string, number>();
  private readonly _shown = new Map<string, string>();
}
