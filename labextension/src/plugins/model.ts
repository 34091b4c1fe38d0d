import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, Notification } from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { ProjectCommands } from '../commands';
import { CurrentProject } from '../current';
import { ServerEvents } from '../events';
import { ProjectsModel } from '../model';
import { Options } from '../options';
import { Server } from '../request';
import { CommandIDs, DOMAIN, ICurrentProject, IProjectCommands, IProjectsModel } from '../tokens';

export const model: JupyterFrontEndPlugin<IProjectsModel> = {
  id: '@ds01/kernels:model',
  description: 'Knows the projects, their containers and what is done to them.',
  provides: IProjectsModel,
  optional: [ITranslator, ISettingRegistry],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    translator: ITranslator | null,
    settings: ISettingRegistry | null
  ): IProjectsModel => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const connection = app.serviceManager.serverSettings;
    const made = new ProjectsModel(new Server(connection), new ServerEvents(connection));
    const options = new Options<{ warn: boolean }>({ warn: true });
    void Promise.all([made.ready, options.follow(settings, model.id)]).then(() => {
      if (made.problem && options.values.warn) {
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

export const commands: JupyterFrontEndPlugin<IProjectCommands> = {
  id: '@ds01/kernels:commands',
  description: 'Puts commands on projects into the palette.',
  provides: IProjectCommands,
  requires: [IProjectsModel, ICurrentProject],
  optional: [ITranslator, ICommandPalette],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    projects: IProjectsModel,
    project: ICurrentProject,
    translator: ITranslator | null,
    palette: ICommandPalette | null
  ): IProjectCommands => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const made = new ProjectCommands(project, app.commands, palette, trans);
    made.add(CommandIDs.refresh, trans.__('Refresh Projects'), () => projects.refresh());
    return made;
  }
};
