import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { KernelWatch } from '../kernelwatch';
import { Options } from '../options';
import type { IPlaceOptions } from '../place';
import { PlaceItem, showPlace } from '../place';
import { CommandIDs, DOMAIN, IProjectCommands, IProjectsModel } from '../tokens';

export const place: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:place',
  description: 'Shows in the notebook toolbar where the kernel runs.',
  requires: [IProjectsModel, IProjectCommands, IToolbarWidgetRegistry, INotebookTracker],
  optional: [ITranslator, ISettingRegistry],
  autoStart: true,
  activate: (
    _: JupyterFrontEnd,
    model: IProjectsModel,
    commands: IProjectCommands,
    toolbars: IToolbarWidgetRegistry,
    notebooks: INotebookTracker,
    translator: ITranslator | null,
    settings: ISettingRegistry | null
  ): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const options = new Options<IPlaceOptions>({ interpreter: true, card: true });
    void options.follow(settings, place.id);
    toolbars.addFactory<NotebookPanel>(
      'Notebook',
      'ds01-place',
      panel => new PlaceItem(new KernelWatch(panel.sessionContext, model), options, trans)
    );
    const show = async (): Promise<void> => {
      const panel = notebooks.currentWidget;
      if (panel !== null) {
        const watch = new KernelWatch(panel.sessionContext, model);
        await showPlace(watch, trans);
        watch.dispose();
      }
    };
    commands.add(
      CommandIDs.where,
      trans.__('Where Does This Notebook Run?'),
      show,
      () => notebooks.currentWidget !== null
    );
  }
};
