import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import type { DocumentRegistry } from '@jupyterlab/docregistry';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import type { IDisposable } from '@lumino/disposable';
import { DisposableDelegate } from '@lumino/disposable';
import { CommandIDs, DOMAIN, IProjectsModel } from '../tokens';

export const launcher: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:launcher',
  description: "Gives a new notebook in a project's folder that project's kernel.",
  requires: [IProjectsModel],
  autoStart: true,
  activate: (app: JupyterFrontEnd, model: IProjectsModel): void => {
    app.docRegistry.addWidgetExtension('Notebook', {
      createNew: (panel: NotebookPanel): void => {
        const { sessionContext, context } = panel;
        const project = model.owner(context.path);
        // A notebook that names its kernel keeps it: what stands in the file comes before this.
        if (project?.kernel_name && !sessionContext.kernelPreference.name) {
          sessionContext.kernelPreference = { ...sessionContext.kernelPreference, name: project.kernel_name };
        }
      }
    });
  }
};

export const dockerfile: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:dockerfile',
  description: 'Offers a rebuild when an edited Dockerfile is saved.',
  requires: [IProjectsModel],
  optional: [ITranslator],
  autoStart: true,
  activate: (app: JupyterFrontEnd, model: IProjectsModel, translator: ITranslator | null): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const offer = (path: string): void => {
      const folder = /^(.+)\/Dockerfile$/.exec(path)?.[1];
      const project = model.projects.find(({ contents_path: at }) => at !== null && at === folder);
      if (project === undefined) {
        return;
      }
      const message = trans.__(
        'The Dockerfile of %1 was saved. Its container is as it was before.',
        project.name
      );
      const rebuild = () => app.commands.execute(CommandIDs.rebuild, { project: project.name });
      Notification.info(message, {
        autoClose: 15000,
        actions: [{ label: trans.__('Rebuild…'), displayType: 'accent', callback: () => void rebuild() }]
      });
    };
    app.docRegistry.addWidgetExtension('Editor', {
      createNew: (_, context: DocumentRegistry.Context): IDisposable => {
        let wasEdited = false;
        const onSave = (_: unknown, state: DocumentRegistry.SaveState): void => {
          if (state === 'started') {
            wasEdited = context.model.dirty;
          } else if (state === 'completed' && wasEdited) {
            offer(context.path);
          }
        };
        context.saveState.connect(onSave);
        return new DisposableDelegate(() => context.saveState.disconnect(onSave));
      }
    });
  }
};
