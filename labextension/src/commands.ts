import type { ICommandPalette } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { Arguments, ICurrentProject, IProjectCommands, OnProject } from './tokens';

export class ProjectCommands implements IProjectCommands {
  constructor(
    private readonly current: ICurrentProject,
    private readonly registry: CommandRegistry,
    private readonly palette: ICommandPalette | null,
    private readonly trans: TranslationBundle
  ) {
    current.changed.connect(() => registry.notifyCommandChanged());
  }

  add(id: string, label: string, run: () => Promise<void> | void, isEnabled = () => true): void {
    this.put(id, {
      label,
      describedBy: { args: { type: 'object', properties: {} } },
      isEnabled,
      execute: run
    });
  }

  addForProject(id: string, label: string, run: OnProject, schema: Arguments = {}): void {
    const { current, trans } = this;
    const project = { type: 'string', description: trans.__('The project; the current one if left out') };
    this.put(id, {
      label,
      describedBy: { args: { type: 'object', properties: { project, ...schema } } },
      isEnabled: args => typeof args.project === 'string' || current.project !== null,
      execute: async args => {
        const named = typeof args.project === 'string' ? args.project : current.project?.name;
        if (named !== undefined) {
          await run(named, args);
        }
      }
    });
  }

  private put(command: string, options: CommandRegistry.ICommandOptions): void {
    this.registry.addCommand(command, options);
    this.palette?.addItem({ command, category: this.trans.__('Containers') });
  }
}
