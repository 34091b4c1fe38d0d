import { ReactWidget, UseSignal } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { addIcon, Button, refreshIcon, ToolbarButtonComponent } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import React, { useState } from 'react';
import { words } from './actions';
import { useGrowing } from './growing';
import { containerIcon } from './icons';
import type { PanelModel } from './panelmodel';
import { found } from './panelmodel';
import type { IFinding, IProject } from './tokens';
import { CommandIDs } from './tokens';
import { phaseOf, stateOf, total } from './words';

interface IProps {
  readonly model: PanelModel;
  readonly commands: CommandRegistry;
  readonly trans: TranslationBundle;
}

/** The sidebar's panel: all projects, and what there is to know and do about one of them. */
export class ProjectPanel extends ReactWidget {
  constructor(private readonly props: IProps) {
    super();
    this.id = 'ds01-kernels-panel';
    this.addClass('jp-ds01-Panel');
    this.title.icon = containerIcon;
    this.title.caption = props.trans.__('Projects and Containers');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', this.title.caption);
  }

  protected override onAfterShow(): void {
    this.props.model.isVisible = true;
  }

  protected override onAfterHide(): void {
    this.props.model.isVisible = false;
  }

  override render(): React.ReactElement {
    const { model } = this.props;
    return <UseSignal signal={model.changed}>{() => <Projects {...this.props} />}</UseSignal>;
  }
}

function Projects(props: IProps): React.ReactElement {
  const { model, commands, trans } = props;
  const { projects, problem } = model.projects;
  const [sought, setSought] = useState('');
  const inName = projects.filter(({ name }) => name.toLowerCase().includes(sought.toLowerCase()));
  const [shown, end] = useGrowing<HTMLLIElement>(inName.length, sought);
  return (
    <>
      <div className="jp-ds01-Panel-header">
        <h2>{trans.__('Projects')}</h2>
        <ToolbarButtonComponent
          icon={addIcon}
          tooltip={trans.__('New project')}
          noFocusOnClick={false}
          onClick={() => void commands.execute(CommandIDs.create)}
        />
        <ToolbarButtonComponent
          icon={refreshIcon}
          tooltip={trans.__('Refresh')}
          noFocusOnClick={false}
          onClick={() => void commands.execute(CommandIDs.refresh)}
        />
      </div>
      {problem && (
        <p className="jp-ds01-error" role="alert">
          {problem}
        </p>
      )}
      {projects.length > 8 && (
        <input
          type="search"
          className="jp-mod-styled jp-ds01-Filter"
          placeholder={trans.__('Find a project')}
          aria-label={trans.__('Find a project')}
          value={sought}
          onChange={event => setSought(event.target.value)}
        />
      )}
      {projects.length === 0 && !problem && (
        <p className="jp-ds01-note">{trans.__('No project yet: a project is a folder with a Dockerfile.')}</p>
      )}
      <ul className="jp-ds01-Projects">
        {inName.slice(0, shown).map(project => (
          <Project key={project.path} {...props} project={project} />
        ))}
        {shown < inName.length && <li ref={end} aria-hidden={true} />}
      </ul>
    </>
  );
}

function Project(props: IProps & { project: IProject }): React.ReactElement {
  const { model, project, trans } = props;
  const isSelected = model.selected?.name === project.name;
  const count = total(project.drift);
  const job = model.projects.running(project.name);
  return (
    <li>
      <button
        className="jp-ds01-Project"
        aria-expanded={isSelected}
        onClick={() => model.select(isSelected ? '' : project.name)}
      >
        <span className="jp-ds01-Project-name">{project.name}</span>
        {count > 0 && (
          <span
            className="jp-ds01-Count"
            title={trans._n(
              '%1 package is not in the Dockerfile',
              '%1 packages are not in the Dockerfile',
              count
            )}
          >
            {count}
          </span>
        )}
        <span className="jp-ds01-Place-state" data-state={project.state}>
          {job === undefined ? stateOf(project, trans) : phaseOf({ ...job, progress: NOTHING }, trans)}
        </span>
      </button>
      {isSelected && <Details {...props} />}
    </li>
  );
}

const NOTHING = { step: 0, steps: 0, name: '' };

function Details(props: IProps & { project: IProject }): React.ReactElement {
  const { model, commands, project, trans } = props;
  const { packages, problem } = model;
  return (
    <div className="jp-ds01-Details">
      {project.error && <p className="jp-ds01-error">{project.error}</p>}
      {problem && <p className="jp-ds01-error">{problem}</p>}
      <dl>
        <dt>{trans.__('Container')}</dt>
        <dd>{project.container}</dd>
        <dt>{trans.__('Image')}</dt>
        <dd>{project.image}</dd>
        {packages?.python && (
          <>
            <dt>{trans.__('Python')}</dt>
            <dd>{packages.python}</dd>
          </>
        )}
      </dl>
      {project.kernel_name !== null && (
        <>
          <ActionButtons commands={commands} project={project} trans={trans} />
          {model.findings !== null && <Findings findings={model.findings} trans={trans} />}
          <Install {...props} />
          {packages !== null && <PackageList {...props} />}
        </>
      )}
    </div>
  );
}

function ActionButtons(props: Omit<IProps, 'model'> & { project: IProject }): React.ReactElement {
  const { commands, project, trans } = props;
  const actions: [string, string][] = [
    [CommandIDs.rebuild, trans.__('Rebuild…')],
    [CommandIDs.save, trans.__('Save…')],
    [CommandIDs.openDockerfile, trans.__('Dockerfile')],
    [CommandIDs.terminal, trans.__('Terminal')],
    [CommandIDs.showLog, trans.__('Log')],
    [CommandIDs.doctor, trans.__('Doctor')],
    [CommandIDs.rollback, trans.__('Rollback…')],
    [CommandIDs.restart, trans.__('Restart…')],
    [CommandIDs.retire, trans.__('Retire…')]
  ];
  return (
    <div className="jp-ds01-Actions" role="group" aria-label={trans.__('Actions')}>
      {actions.map(([command, label]) => (
        <Button
          key={command}
          small
          className="jp-mod-styled"
          title={commands.label(command, { project: project.name })}
          onClick={() => void commands.execute(command, { project: project.name })}
        >
          {label}
        </Button>
      ))}
    </div>
  );
}

function Findings({ findings, trans }: { findings: readonly IFinding[]; trans: TranslationBundle }) {
  const shown = findings.filter(({ level }) => level !== 'ok');
  return (
    <section aria-label={trans.__('Findings')} role="status">
      {shown.length === 0 && <p>{trans.__('The doctor found nothing wrong.')}</p>}
      {shown.map(({ check, level, message, remedy }) => (
        <p key={`${check} ${message}`} className={level === 'error' ? 'jp-ds01-error' : 'jp-ds01-warning'}>
          {message} {remedy}
        </p>
      ))}
    </section>
  );
}

function Install({ commands, project, trans }: IProps & { project: IProject }): React.ReactElement {
  const [line, setLine] = useState('');
  return (
    <form
      className="jp-ds01-Install"
      onSubmit={event => {
        event.preventDefault();
        const specs = words(line);
        if (specs.length > 0) {
          setLine('');
          void commands.execute(CommandIDs.install, { project: project.name, specs });
        }
      }}
    >
      <input
        className="jp-mod-styled"
        placeholder={trans.__('Install a package')}
        aria-label={trans.__('Install a package in the container')}
        value={line}
        onChange={event => setLine(event.target.value)}
      />
      <Button small type="submit" className="jp-mod-styled">
        {trans.__('Install')}
      </Button>
    </form>
  );
}

function PackageList({ model, trans }: IProps): React.ReactElement {
  const [sought, setSought] = useState('');
  const packages = model.packages?.packages ?? [];
  const { unsaved } = model;
  const inName = found(packages, sought);
  const [shown, end] = useGrowing<HTMLTableRowElement>(inName.length, sought);
  if (packages.length === 0) {
    return <p className="jp-ds01-note">{trans.__('Packages are shown once the container has run.')}</p>;
  }
  return (
    <section aria-label={trans.__('Packages')}>
      <input
        type="search"
        className="jp-mod-styled jp-ds01-Filter"
        placeholder={trans.__('Find among %1 packages', packages.length)}
        aria-label={trans.__('Find a package')}
        value={sought}
        onChange={event => setSought(event.target.value)}
      />
      <table className="jp-ds01-Packages">
        <tbody>
          {inName.slice(0, shown).map(({ name, version, requested }) => (
            <tr key={name} data-requested={requested}>
              <th scope="row">{name}</th>
              <td>{version}</td>
              <td>
                {unsaved.has(name)
                  ? trans.__('not in the Dockerfile')
                  : requested
                    ? ''
                    : trans.__('dependency')}
              </td>
            </tr>
          ))}
          {shown < inName.length && <tr ref={end} aria-hidden={true} />}
        </tbody>
      </table>
    </section>
  );
}
