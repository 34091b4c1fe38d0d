import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ILayoutRestorer } from '@jupyterlab/application';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { Actions } from '../actions';
import { Options } from '../options';
import { ProjectPanel } from '../panel';
import { PanelModel } from '../panelmodel';
import type { Action, Arguments, IProject } from '../tokens';
import { CommandIDs, DOMAIN, ICurrentProject, IProjectCommands, IProjectsModel } from '../tokens';

export const panel: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:panel',
  description: 'Shows all projects in the sidebar, and what can be done to them.',
  requires: [IProjectsModel, ICurrentProject, IProjectCommands],
  optional: [ITranslator, ILayoutRestorer, ISettingRegistry],
  autoStart: true,
  activate: async (
    app: JupyterFrontEnd,
    model: IProjectsModel,
    current: ICurrentProject,
    commands: IProjectCommands,
    translator: ITranslator | null,
    restorer: ILayoutRestorer | null,
    settings: ISettingRegistry | null
  ): Promise<void> => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const { shell } = app;
    const content = new PanelModel(model);
    const widget = new ProjectPanel({ model: content, commands: app.commands, trans });
    const show = (name?: string): void => {
      if (name !== undefined) {
        content.select(name);
      }
      shell.activateById(widget.id);
    };
    const actions = new Actions(model, app.commands, trans);
    addActions(commands, model, actions, trans);
    commands.addForProject(CommandIDs.doctor, trans.__('Examine the Project'), async name => {
      show(name);
      await content.examine();
    });
    commands.add(CommandIDs.create, trans.__('New Project…'), async () => {
      const name = await actions.create();
      if (name !== null) {
        show(name);
      }
    });
    commands.add(CommandIDs.showPanel, trans.__('Show Projects and Containers'), () =>
      show(current.project?.name)
    );

    const options = new Options<{ area: string }>({ area: 'left' });
    const put = (): void => {
      const { area } = options.values;
      if (!Array.from(shell.widgets(area)).includes(widget)) {
        shell.add(widget, area, { rank: 350, type: 'Projects' });
      }
    };
    await options.follow(settings, panel.id);
    put();
    options.changed.connect(put);
    restorer?.add(widget, widget.id);
    // What was saved of the layout puts it where it was then.
    void app.restored.then(put);
  }
};

function addActions(
  commands: IProjectCommands,
  model: IProjectsModel,
  actions: Actions,
  trans: TranslationBundle
): void {
  const add = (
    id: string,
    label: string,
    run: (project: IProject, args: Arguments) => Promise<void>,
    schema?: Arguments
  ): void => {
    const found = async (name: string, args: Arguments): Promise<void> => {
      const project = model.find(name);
      await (project && run(project, args));
    };
    commands.addForProject(id, label, found, schema);
  };
  const act = (action: Action) => (one: IProject) => actions.act(one, action);
  add(CommandIDs.start, trans.__('Start the Container'), act('deploy'));
  add(CommandIDs.rollback, trans.__('Roll Back to the Previous Image…'), act('rollback'));
  add(CommandIDs.restart, trans.__('Restart the Container…'), act('restart'));
  add(CommandIDs.restore, trans.__('Restore Lost Packages'), act('restore'));
  add(CommandIDs.retire, trans.__('Remove the Container…'), one => actions.retire(one));
  add(CommandIDs.terminal, trans.__('Open a Terminal in the Container'), one => actions.terminal(one));
  add(
    CommandIDs.openDockerfile,
    trans.__('Open the Dockerfile'),
    (one, { line }) => actions.openDockerfile(one, typeof line === 'number' ? line : 0),
    { line: { type: 'number', description: trans.__('The line to go to, from 1') } }
  );
  const specs = trans.__('Requirements; asked for if left out');
  add(
    CommandIDs.install,
    trans.__('Install Packages in the Container…'),
    (one, args) => actions.install(one, texts(args.specs)),
    { specs: { type: 'array', items: { type: 'string' }, description: specs } }
  );
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter(one => typeof one === 'string') : [];
}
