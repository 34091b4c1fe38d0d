import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ILayoutRestorer } from '@jupyterlab/application';
import type { MainAreaWidget } from '@jupyterlab/apputils';
import { ICommandPalette, showErrorMessage, WidgetTracker } from '@jupyterlab/apputils';
import { IStateDB } from '@jupyterlab/statedb';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { JobNotes } from '../jobnotes';
import { LogPanel, logWidget } from '../log';
import { CommandIDs, DOMAIN, ICurrentProject, IProjectsModel } from '../tokens';

export const progress: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:progress',
  description: 'Shows what is done to projects, and its log.',
  requires: [IProjectsModel, ICurrentProject],
  optional: [ITranslator, ICommandPalette, ILayoutRestorer, IStateDB],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    model: IProjectsModel,
    current: ICurrentProject,
    translator: ITranslator | null,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    state: IStateDB | null
  ): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const tracker = new WidgetTracker<MainAreaWidget<LogPanel>>({ namespace: 'ds01-logs' });
    const args = {
      type: 'object',
      properties: {
        project: { type: 'string', description: trans.__('The project; the current one if left out') },
        id: { type: 'string', description: trans.__('The job; the latest if left out') }
      }
    } as const;

    const cancel = async (project: string, id: string): Promise<void> => {
      try {
        await model.server.cancel(project, id);
        await model.follow(project, id);
      } catch (error) {
        await showErrorMessage(trans.__('Not cancelled'), error instanceof Error ? error : String(error));
      }
    };
    const named = async (
      given: ReadonlyPartialJSONObject
    ): Promise<{ project: string; id: string } | null> => {
      const project = typeof given.project === 'string' ? given.project : current.project?.name;
      if (project === undefined) {
        return null;
      }
      const id = typeof given.id === 'string' ? given.id : (await model.server.jobs(project))[0]?.id;
      return id ? { project, id } : null;
    };

    app.commands.addCommand(CommandIDs.showLog, {
      label: trans.__('Show the Latest Log'),
      describedBy: { args },
      isEnabled: given => typeof given.project === 'string' || current.project !== null,
      execute: async given => {
        const job = await named(given);
        if (job === null) {
          return;
        }
        let widget = tracker.find(({ content }) => content.job === job.id);
        if (widget === undefined) {
          const content = new LogPanel(model, job.project, job.id, trans);
          widget = logWidget(content, () => void cancel(job.project, job.id), trans);
          await tracker.add(widget);
          app.shell.add(widget, 'down', { type: 'Log' });
        }
        app.shell.activateById(widget.id);
      }
    });
    app.commands.addCommand(CommandIDs.cancel, {
      label: trans.__('Cancel What Is Done to the Project'),
      describedBy: { args },
      isEnabled: given =>
        typeof given.id === 'string' || model.running(current.project?.name ?? '') !== undefined,
      execute: async given => {
        const running = model.running(current.project?.name ?? '');
        const job = typeof given.id === 'string' ? await named(given) : (running ?? null);
        if (job !== null) {
          await cancel(job.project, job.id);
        }
      }
    });
    for (const command of [CommandIDs.showLog, CommandIDs.cancel]) {
      palette?.addItem({ command, category: trans.__('Containers') });
    }
    void restorer?.restore(tracker, {
      command: CommandIDs.showLog,
      args: ({ content }) => ({ project: content.project, id: content.job }),
      name: ({ content }) => content.job
    });
    new JobNotes(model, app.commands, trans, state);
  }
};
