import { Dialog, InputDialog, showDialog, showErrorMessage } from '@jupyterlab/apputils';
import { DocumentWidget } from '@jupyterlab/docregistry';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { Action, IProject, IProjectsModel } from './tokens';
import { total } from './words';

/** What users do to a project, each with the question that it needs first. */
export class Actions {
  constructor(
    private readonly model: IProjectsModel,
    private readonly commands: CommandRegistry,
    private readonly trans: TranslationBundle
  ) {}

  async install(project: IProject, specs: readonly string[]): Promise<void> {
    const wanted = specs.length > 0 ? specs : await this.askSpecs(project);
    if (wanted.length > 0) {
      await this.start(project, () => this.model.server.install(project.name, wanted));
    }
  }

  async act(project: IProject, action: Action): Promise<void> {
    const { trans } = this;
    const questions: Partial<Record<Action, [string, string, string]>> = {
      rollback: [
        trans.__('Roll back %1?', project.name),
        trans.__(
          'The previous image, and the Dockerfile that it was built from, come back. Kernels restart.'
        ),
        trans.__('Roll Back')
      ],
      restart: [
        trans.__('Restart the container of %1?', project.name),
        trans.__('All kernels in it restart, and lose their variables. What is installed stays.'),
        trans.__('Restart')
      ]
    };
    const question = questions[action];
    if (question === undefined || (await confirm(question)).accept) {
      await this.start(project, () => this.model.server.act(project.name, action));
    }
  }

  async retire(project: IProject): Promise<void> {
    const { trans } = this;
    const unsaved = total(project.drift);
    const loss =
      unsaved === 0
        ? trans.__('Everything that is installed is in the Dockerfile; nothing is lost.')
        : trans._n(
            '%1 package that is not in the Dockerfile goes with it.',
            '%1 packages that are not in the Dockerfile go with it.',
            unsaved
          );
    const title = trans.__('Remove the container of %1?', project.name);
    const answer = await confirm([title, loss, trans.__('Retire')], trans.__('Even while kernels run in it'));
    if (answer.accept) {
      await this.start(project, () => this.model.server.retire(project.name, answer.isChecked));
    }
  }

  async terminal(project: IProject): Promise<void> {
    await this.attempt(async () => {
      const name = await this.model.server.terminal(project.name);
      await this.commands.execute('terminal:create-new', { name });
      await this.model.refresh();
    });
  }

  /** `line` is where the cursor goes, from 1; 0: where it was. */
  async openDockerfile(project: IProject, line: number): Promise<void> {
    await this.attempt(async () => {
      if (project.contents_path === null) {
        throw new Error(this.trans.__('%1 lies outside the folder that JupyterLab shows.', project.path));
      }
      const path = `${project.contents_path}/Dockerfile`;
      const opened: unknown = await this.commands.execute('docmanager:open', { path, factory: 'Editor' });
      if (line > 0 && opened instanceof DocumentWidget) {
        const { content, context } = opened as DocumentWidget;
        await context.ready;
        // What was built may have been longer than what is there. The editor counts from 0.
        const lines = context.model.toString().split('\n').length;
        opened.setFragment(`#line=${Math.min(line, lines) - 1}`);
        content.activate();
      }
    });
  }

  /** A new project; its name, or null when the user thought better of it or it could not be made. */
  async create(): Promise<string | null> {
    const { trans } = this;
    const title = trans.__('New Project');
    const name = await InputDialog.getText({ title, label: trans.__('Name of the project'), required: true });
    if (!name.button.accept || !name.value) {
      return null;
    }
    const template = await InputDialog.getItem({
      title,
      label: trans.__('Dockerfile to begin with'),
      items: ['debian', 'python']
    });
    if (!template.button.accept || !template.value) {
      return null;
    }
    const wanted = { name: name.value, template: template.value };
    return this.attempt(async () => {
      const made = await this.model.server.create(wanted.name, wanted.template);
      await this.model.refresh();
      return made.name;
    });
  }

  private async askSpecs(project: IProject): Promise<string[]> {
    const { trans } = this;
    const answer = await InputDialog.getText({
      title: trans.__('Install in %1', project.name),
      label: trans.__('Packages, as pip takes them'),
      placeholder: 'numpy pandas>=2'
    });
    return answer.button.accept ? words(answer.value ?? '') : [];
  }

  private async start(project: IProject, begin: () => Promise<string>): Promise<void> {
    await this.attempt(async () => this.model.follow(project.name, await begin()));
  }

  private async attempt<T>(work: () => Promise<T>): Promise<T | null> {
    try {
      return await work();
    } catch (error) {
      await showErrorMessage(
        this.trans.__('That did not work'),
        error instanceof Error ? error : String(error)
      );
      return null;
    }
  }
}

/** The requirements in a line, which spaces or commas divide where none of them needs a space itself. */
export function words(line: string): string[] {
  return line.includes(' @ ') || line.includes(';')
    ? [line.trim()]
    : line.split(/[\s]+|,(?![<>=!~0-9])/).filter(word => word !== '');
}

async function confirm(
  [title, body, label]: [string, string, string],
  checkbox?: string
): Promise<{ accept: boolean; isChecked: boolean }> {
  const answer = await showDialog({
    title,
    body,
    checkbox: checkbox === undefined ? null : { label: checkbox },
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label })]
  });
  return { accept: answer.button.accept, isChecked: answer.isChecked ?? false };
}
