import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { KernelWatch, PlaceItem, showPlace } from '../place';
import { CommandIDs, DOMAIN, IProjectsModel } from '../tokens';

export const place: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:place',
  description: 'Shows in the notebook toolbar where the kernel runs.',
  requires: [IProjectsModel, IToolbarWidgetRegistry, INotebookTracker],
  optional: [ITranslator, ICommandPalette],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    model: IProjectsModel,
    toolbars: IToolbarWidgetRegistry,
    notebooks: INotebookTracker,
    translator: ITranslator | null,
    palette: ICommandPalette | null
  ): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    toolbars.addFactory<NotebookPanel>(
      'Notebook',
      'ds01-place',
      panel => new PlaceItem(new KernelWatch(panel.sessionContext, model), trans)
    );
    app.commands.addCommand(CommandIDs.where, {
      label: trans.__('Where Does This Notebook Run?'),
      describedBy: { args: { type: 'object', properties: {} } },
      isEnabled: () => notebooks.currentWidget !== null,
      execute: async () => {
        const panel = notebooks.currentWidget;
        if (panel !== null) {
          const watch = new KernelWatch(panel.sessionContext, model);
          await showPlace(watch, trans);
          watch.dispose();
        }
      }
    });
    palette?.addItem({ command: CommandIDs.where, category: trans.__('Containers') });
  }
};
