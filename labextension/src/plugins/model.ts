import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, Notification } from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { CurrentProject } from '../current';
import { ServerEvents } from '../events';
import { ProjectsModel } from '../model';
import { Server } from '../request';
import { CommandIDs, DOMAIN, ICurrentProject, IProjectsModel } from '../tokens';

export const model: JupyterFrontEndPlugin<IProjectsModel> = {
  id: '@ds01/kernels:model',
  description: 'Knows the projects, their containers and what is done to them.',
  provides: IProjectsModel,
  optional: [ITranslator, ICommandPalette],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    translator: ITranslator | null,
    palette: ICommandPalette | null
  ): IProjectsModel => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const settings = app.serviceManager.serverSettings;
    const made = new ProjectsModel(new Server(settings), new ServerEvents(settings));
    app.commands.addCommand(CommandIDs.refresh, {
      label: trans.__('Refresh Projects'),
      describedBy: { args: { type: 'object', properties: {} } },
      execute: () => made.refresh()
    });
    palette?.addItem({ command: CommandIDs.refresh, category: trans.__('Containers') });
    void made.ready.then(() => {
      if (made.problem) {
        // Said once: without the server's part nothing of this works, and the rest of JupyterLab does.
        const message = trans.__(
          "Projects and containers are not shown: the server's part of ds01-kernels does not answer (%1).",
          made.problem
        );
        Notification.warning(message, { autoClose: false });
      }
    });
    return made;
  }
};

export const current: JupyterFrontEndPlugin<ICurrentProject> = {
  id: '@ds01/kernels:current',
  description: 'Tells which project the user is working in.',
  provides: ICurrentProject,
  requires: [IProjectsModel],
  optional: [IDefaultFileBrowser],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    projects: IProjectsModel,
    browser: IDefaultFileBrowser | null
  ): ICurrentProject => new CurrentProject(app.shell, projects, browser)
};
