import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, IToolbarWidgetRegistry, showErrorMessage } from '@jupyterlab/apputils';
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { Choice } from '../choice';
import { KernelWatch } from '../place';
import { RebuildButton } from '../rebuildbutton';
import type { Mode } from '../rebuilddialog';
import { askRebuild } from '../rebuilddialog';
import { RequestError } from '../request';
import { CommandIDs, DOMAIN, ICurrentProject, IProjectsModel } from '../tokens';

export const rebuild: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:rebuild',
  description: 'Makes what is installed permanent.',
  requires: [IProjectsModel, ICurrentProject],
  optional: [IToolbarWidgetRegistry, ITranslator, ICommandPalette],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    model: IProjectsModel,
    current: ICurrentProject,
    toolbars: IToolbarWidgetRegistry | null,
    translator: ITranslator | null,
    palette: ICommandPalette | null
  ): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    toolbars?.addFactory<NotebookPanel>(
      'Notebook',
      'ds01-rebuild',
      panel => new RebuildButton(new KernelWatch(panel.sessionContext, model), app.commands, trans)
    );
    const add = (command: string, label: string, mode: Mode): void => {
      app.commands.addCommand(command, {
        label,
        describedBy: {
          args: {
            type: 'object',
            properties: {
              project: { type: 'string', description: trans.__('The project; the current one if left out') }
            }
          }
        },
        isEnabled: args => typeof args.project === 'string' || current.project !== null,
        execute: async args => {
          const name = typeof args.project === 'string' ? args.project : current.project?.name;
          if (name !== undefined) {
            await run(model, name, mode, trans);
          }
        }
      });
      palette?.addItem({ command, category: trans.__('Containers') });
    };
    add(CommandIDs.rebuild, trans.__('Rebuild…'), 'rebuild');
    add(CommandIDs.save, trans.__('Save Packages Into the Dockerfile…'), 'save');
    current.changed.connect(() => app.commands.notifyCommandChanged());
  }
};

/** From the question to the job's beginning. What was changed meanwhile is shown, and asked about again. */
async function run(
  model: IProjectsModel,
  project: string,
  mode: Mode,
  trans: TranslationBundle
): Promise<void> {
  try {
    const choice = await Choice.load(model.server, project);
    if (!(await askRebuild(choice, mode, trans))) {
      return;
    }
    const { kernels, ...order } = await choice.order();
    if (mode === 'rebuild') {
      await model.follow(project, await model.server.rebuild(project, { ...order, kernels }));
    } else {
      await model.server.save(project, order);
      await model.refresh();
    }
  } catch (error) {
    await showErrorMessage(
      trans.__('%1 was not changed', project),
      error instanceof Error ? error : String(error)
    );
    if (error instanceof RequestError && error.reason === 'conflict') {
      await run(model, project, mode, trans);
    }
  }
}
