import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IToolbarWidgetRegistry, showErrorMessage } from '@jupyterlab/apputils';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import type { IBeginning } from '../choice';
import { Choice } from '../choice';
import { KernelWatch } from '../kernelwatch';
import { Options } from '../options';
import { RebuildButton } from '../rebuildbutton';
import type { Mode } from '../rebuilddialog';
import { askRebuild } from '../rebuilddialog';
import { RequestError } from '../request';
import { CommandIDs, DOMAIN, IProjectCommands, IProjectsModel } from '../tokens';

export const rebuild: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:rebuild',
  description: 'Makes what is installed permanent.',
  requires: [IProjectsModel, IProjectCommands],
  optional: [IToolbarWidgetRegistry, ITranslator, ISettingRegistry],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    model: IProjectsModel,
    commands: IProjectCommands,
    toolbars: IToolbarWidgetRegistry | null,
    translator: ITranslator | null,
    settings: ISettingRegistry | null
  ): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const options = new Options<IBeginning>({ pin: true, restart: 'idle' });
    void options.follow(settings, rebuild.id);
    toolbars?.addFactory<NotebookPanel>(
      'Notebook',
      'ds01-rebuild',
      panel => new RebuildButton(new KernelWatch(panel.sessionContext, model), app.commands, trans)
    );
    commands.addForProject(CommandIDs.rebuild, trans.__('Rebuild…'), name =>
      run(model, name, 'rebuild', options.values, trans)
    );
    commands.addForProject(CommandIDs.save, trans.__('Save Packages Into the Dockerfile…'), name =>
      run(model, name, 'save', options.values, trans)
    );
  }
};

/** From the question to the job's beginning. What was changed meanwhile is shown, and asked about again. */
async function run(
  model: IProjectsModel,
  project: string,
  mode: Mode,
  beginning: IBeginning,
  trans: TranslationBundle
): Promise<void> {
  try {
    const choice = await Choice.load(model.server, project, beginning);
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
      await run(model, project, mode, beginning, trans);
    }
  }
}
