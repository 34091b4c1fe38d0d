import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ILayoutRestorer } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { Actions } from '../actions';
import { ProjectPanel } from '../panel';
import { PanelModel } from '../panelmodel';
import type { IProject } from '../tokens';
import { CommandIDs, DOMAIN, ICurrentProject, IProjectsModel } from '../tokens';

export const panel: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:panel',
  description: 'Shows all projects in the sidebar, and what can be done to them.',
  requires: [IProjectsModel, ICurrentProject],
  optional: [ITranslator, ICommandPalette, ILayoutRestorer],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    model: IProjectsModel,
    current: ICurrentProject,
    translator: ITranslator | null,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null
  ): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const { commands, shell } = app;
    const actions = new Actions(model, commands, trans);
    const content = new PanelModel(model);
    const widget = new ProjectPanel({ model: content, commands, trans });
    shell.add(widget, 'left', { rank: 350, type: 'Projects' });
    restorer?.add(widget, 'ds01-kernels-panel');

    const show = (name?: string): void => {
      if (name !== undefined) {
        content.select(name);
      }
      shell.activateById(widget.id);
    };
    const add = (command: string, label: string, run: (project: IProject) => Promise<void>): void => {
      commands.addCommand(command, {
        label,
        describedBy: { args: ARGS },
        isEnabled: ({ project }) => typeof project === 'string' || current.project !== null,
        execute: async ({ project: name }) => {
          const project = typeof name === 'string' ? model.find(name) : current.project;
          if (project) {
            await run(project);
          }
        }
      });
      palette?.addItem({ command, category: trans.__('Containers') });
    };
    add(CommandIDs.rollback, trans.__('Roll Back to the Previous Image…'), one =>
      actions.act(one, 'rollback')
    );
    add(CommandIDs.restart, trans.__('Restart the Container…'), one => actions.act(one, 'restart'));
    add(CommandIDs.restore, trans.__('Restore Lost Packages'), one => actions.act(one, 'restore'));
    add(CommandIDs.retire, trans.__('Remove the Container…'), one => actions.retire(one));
    add(CommandIDs.terminal, trans.__('Open a Terminal in the Container'), one => actions.terminal(one));
    add(CommandIDs.openDockerfile, trans.__('Open the Dockerfile'), one => actions.openDockerfile(one));
    add(CommandIDs.doctor, trans.__('Examine the Project'), async one => {
      show(one.name);
      await content.examine();
    });

    commands.addCommand(CommandIDs.install, {
      label: trans.__('Install Packages in the Container…'),
      describedBy: { args: ARGS },
      isEnabled: ({ project }) => typeof project === 'string' || current.project !== null,
      execute: async ({ project: name, specs }) => {
        const project = typeof name === 'string' ? model.find(name) : current.project;
        if (project) {
          const named = Array.isArray(specs) ? specs.filter(spec => typeof spec === 'string') : [];
          await actions.install(project, named);
        }
      }
    });
    commands.addCommand(CommandIDs.create, {
      label: trans.__('New Project…'),
      describedBy: { args: { type: 'object', properties: {} } },
      execute: async () => {
        const name = await actions.create();
        if (name !== null) {
          show(name);
        }
      }
    });
    commands.addCommand(CommandIDs.showPanel, {
      label: trans.__('Show Projects and Containers'),
      describedBy: { args: { type: 'object', properties: {} } },
      execute: () => show(current.project?.name)
    });
    for (const command of [CommandIDs.install, CommandIDs.create, CommandIDs.showPanel]) {
      palette?.addItem({ command, category: trans.__('Containers') });
    }
  }
};

const ARGS = {
  type: 'object',
  properties: {
    project: { type: 'string', description: 'The project; the current one if left out' },
    specs: { type: 'array', items: { type: 'string' }, description: 'Requirements, for an installation' }
  }
} as const;
