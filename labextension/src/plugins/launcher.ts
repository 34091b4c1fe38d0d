import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Dialog, MainAreaWidget } from '@jupyterlab/apputils';
import { DocumentWidget } from '@jupyterlab/docregistry';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { ILauncher } from '@jupyterlab/launcher';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { Widget } from '@lumino/widgets';
import { LauncherOrder, putFirst } from '../kernelorder';
import { Options } from '../options';
import { IProjectsModel } from '../tokens';

export const launcher: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:launcher',
  description: "Gives a new notebook in a project's folder that project's kernel, and shows that one first.",
  requires: [IProjectsModel],
  optional: [ILauncher, IDefaultFileBrowser, ISettingRegistry],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    model: IProjectsModel,
    cards: ILauncher | null,
    browser: IDefaultFileBrowser | null,
    settings: ISettingRegistry | null
  ): void => {
    const options = new Options<{ first: boolean; kernel: boolean }>({ first: true, kernel: true });
    app.docRegistry.addWidgetExtension('Notebook', {
      createNew: (panel: NotebookPanel): void => {
        const { sessionContext, context } = panel;
        const name = options.values.kernel ? model.owner(context.path)?.kernel_name : null;
        // A notebook that names its kernel keeps it: what stands in the file comes before this.
        if (name && !sessionContext.kernelPreference.name) {
          sessionContext.kernelPreference = { ...sessionContext.kernelPreference, name };
        }
      }
    });

    Dialog.tracker.widgetAdded.connect((_: unknown, dialog: Widget) => {
      const { currentWidget } = app.shell;
      const path = currentWidget instanceof DocumentWidget ? currentWidget.context.path : browser?.model.path;
      const name = path === undefined ? undefined : model.owner(path)?.kernel_name;
      if (options.values.first && name) {
        putFirst(dialog.node, name);
      }
    });

    // Another launcher than JupyterLab's may have no such list.
    if (cards !== null && browser !== null && 'items' in cards) {
      const order = new LauncherOrder(cards as ILauncher.IModel, model, browser, () => {
        for (const widget of app.shell.widgets('main')) {
          const content: unknown = widget instanceof MainAreaWidget ? widget.content : null;
          if (content instanceof Widget && content.hasClass('jp-Launcher')) {
            content.update();
          }
        }
      });
      const apply = (): void => {
        order.isOn = options.values.first;
      };
      options.changed.connect(apply);
      apply();
    }
    void options.follow(settings, launcher.id);
  }
};
