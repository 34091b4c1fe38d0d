import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ILayoutRestorer } from '@jupyterlab/application';
import type { MainAreaWidget } from '@jupyterlab/apputils';
import { showErrorMessage, WidgetTracker } from '@jupyterlab/apputils';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStateDB } from '@jupyterlab/statedb';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import type { INoteOptions } from '../jobnotes';
import { JobNotes } from '../jobnotes';
import { LogPanel, logWidget } from '../log';
import { Options } from '../options';
import type { Arguments } from '../tokens';
import { CommandIDs, DOMAIN, IProjectCommands, IProjectsModel } from '../tokens';

export const progress: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:progress',
  description: 'Shows what is done to projects, and its log.',
  requires: [IProjectsModel, IProjectCommands],
  optional: [ITranslator, ILayoutRestorer, IStateDB, ISettingRegistry],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    model: IProjectsModel,
    commands: IProjectCommands,
    translator: ITranslator | null,
    restorer: ILayoutRestorer | null,
    state: IStateDB | null,
    settings: ISettingRegistry | null
  ): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const options = new Options<INoteOptions>({ notifications: 'all', logs: 'down' });
    const tracker = new WidgetTracker<MainAreaWidget<LogPanel>>({ namespace: 'ds01-logs' });

    const show = async (name: string, { id: given }: Arguments): Promise<void> => {
      const id = typeof given === 'string' ? given : (await model.server.jobs(name))[0]?.id;
      if (!id) {
        return;
      }
      let widget = tracker.find(({ content }) => content.job === id);
      if (widget === undefined) {
        widget = logWidget(new LogPanel(model, app.commands, name, id, trans), app.commands, trans);
        await tracker.add(widget);
        app.shell.add(widget, options.values.logs, { type: 'Log' });
      }
      app.shell.activateById(widget.id);
    };
    const cancel = async (name: string, { id: given }: Arguments): Promise<void> => {
      const id = typeof given === 'string' ? given : model.running(name)?.id;
      try {
        if (id) {
          await model.server.cancel(name, id);
          await model.follow(name, id);
        }
      } catch (error) {
        await showErrorMessage(trans.__('Not cancelled'), error instanceof Error ? error : String(error));
      }
    };
    const id = { type: 'string', description: trans.__('The job; the latest if left out') };
    commands.addForProject(CommandIDs.showLog, trans.__('Show the Latest Log'), show, { id });
    commands.addForProject(CommandIDs.cancel, trans.__('Cancel What Is Done to the Project'), cancel, { id });

    void restorer?.restore(tracker, {
      command: CommandIDs.showLog,
      args: ({ content }) => ({ project: content.project, id: content.job }),
      name: ({ content }) => content.job
    });
    void options.follow(settings, progress.id).then(() => {
      new JobNotes(model, app.commands, options, trans, state);
    });
  }
};
