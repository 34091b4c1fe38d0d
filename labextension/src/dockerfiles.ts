import { Notification } from '@jupyterlab/apputils';
import type { DocumentRegistry } from '@jupyterlab/docregistry';
import type { Contents } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { IDisposable } from '@lumino/disposable';
import { DisposableDelegate } from '@lumino/disposable';
import type { IJob, IProject, IProjectsModel } from './tokens';
import { CommandIDs } from './tokens';
import { changesImage, isOver } from './words';

/** Milliseconds for which a rebuild is offered. */
const SHOWN = 15_000;

/** The Dockerfiles that are open: what is said when one is saved, and when one is written from outside. */
export class Dockerfiles {
  constructor(
    private readonly model: IProjectsModel,
    private readonly contents: Contents.IManager,
    private readonly commands: CommandRegistry,
    private readonly trans: TranslationBundle
  ) {
    model.jobChanged.connect((_, job) => this.onJob(job));
    commands.commandExecuted.connect((_, { id, result }) => {
      if (id === CommandIDs.save) {
        void result.then(() => this.readAgain());
      }
    });
  }

  /** Whether a rebuild is offered after a save. */
  offers = true;

  /** Follow an open file, whatever file it is. */
  follow(context: DocumentRegistry.Context): IDisposable {
    let wasEdited = false;
    const onSave = (_: unknown, state: DocumentRegistry.SaveState): void => {
      if (state === 'started') {
        wasEdited = context.model.dirty;
      } else if (state === 'completed' && wasEdited) {
        this.offer(context.path);
      }
    };
    context.saveState.connect(onSave);
    this._open.add(context);
    return new DisposableDelegate(() => {
      this._open.delete(context);
      context.saveState.disconnect(onSave);
    });
  }

  private projectOf(path: string): IProject | undefined {
    return this.model.projects.find(({ contents_path: at }) => at !== null && `${at}/Dockerfile` === path);
  }

  private offer(path: string): void {
    const project = this.projectOf(path)?.name;
    if (project === undefined || !this.offers) {
      return;
    }
    const { trans } = this;
    if (this.model.running(project)) {
      Notification.info(
        trans.__(
          'The Dockerfile of %1 was saved. What runs just now began with the file as it was.',
          project
        ),
        { autoClose: SHOWN, actions: [this.action(trans.__('Show Log'), CommandIDs.showLog, project)] }
      );
      return;
    }
    const action = this.action(trans.__('Rebuild…'), CommandIDs.rebuild, project);
    Notification.info(
      trans.__('The Dockerfile of %1 was saved. Its container is as it was before.', project),
      {
        autoClose: SHOWN,
        actions: [{ ...action, displayType: 'accent' }]
      }
    );
  }

  private action(label: string, command: string, project: string): Notification.IAction {
    return { label, callback: () => void this.commands.execute(command, { project }) };
  }

  private onJob(job: IJob): void {
    if (isOver(job) && changesImage(job)) {
      void this.readAgain();
    }
  }

  /** Show what was written by us; what the user has not saved is never thrown away unasked. */
  private async readAgain(): Promise<void> {
    for (const context of this._open) {
      const project = this.projectOf(context.path)?.name;
      if (project !== undefined && (await this.isOld(context))) {
        if (context.model.dirty) {
          this.tell(context, project);
        } else {
          await context.revert();
        }
      }
    }
  }

  private async isOld({ path, contentsModel }: DocumentRegistry.Context): Promise<boolean> {
    try {
      const { last_modified: written } = await this.contents.get(path, { content: false });
      return contentsModel !== null && written !== contentsModel.last_modified;
    } catch {
      // Saving the file will say what is wrong with it.
      return false;
    }
  }

  private tell(context: DocumentRegistry.Context, project: string): void {
    const { trans } = this;
    const message = trans.__(
      'The Dockerfile of %1 was written while yours has changes that are not saved. When you save, you are asked which one to keep.',
      project
    );
    const discard = { label: trans.__('Discard My Changes'), callback: () => void context.revert() };
    Notification.warning(message, { autoClose: false, actions: [{ ...discard, displayType: 'warn' }] });
  }

  private readonly _open = new Set<DocumentRegistry.Context>();
}
