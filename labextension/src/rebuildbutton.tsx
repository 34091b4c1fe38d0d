import { ReactWidget } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { buildIcon, ToolbarButtonComponent } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import React from 'react';
import type { KernelWatch } from './kernelwatch';
import { CommandIDs } from './tokens';
import { phaseOf, total } from './words';

/** The toolbar's button, with a badge that counts what the Dockerfile does not have. */
export class RebuildButton extends ReactWidget {
  constructor(
    private readonly watch: KernelWatch,
    private readonly commands: CommandRegistry,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-ds01-RebuildButton');
    watch.changed.connect(() => this.update());
    watch.model.jobChanged.connect(this.update, this);
  }

  override dispose(): void {
    this.watch.model.jobChanged.disconnect(this.update, this);
    this.watch.dispose();
    super.dispose();
  }

  override render(): React.ReactElement {
    const { watch, trans } = this;
    const { project } = watch;
    if (project === null) {
      return <></>;
    }
    const job = watch.model.running(project.name);
    const count = total(project.drift);
    const missing =
      count === 0
        ? trans.__('Rebuild: the Dockerfile has every package')
        : trans._n(
            'Rebuild: %1 package is not in the Dockerfile',
            'Rebuild: %1 packages are not in the Dockerfile',
            count
          );
    const execute = () =>
      job === undefined
        ? this.commands.execute(CommandIDs.rebuild, { project: project.name })
        : this.commands.execute(CommandIDs.showLog, { project: project.name, id: job.id });
    return (
      <>
        <ToolbarButtonComponent
          icon={buildIcon}
          label={job === undefined ? trans.__('Rebuild') : trans.__('Rebuilding…')}
          tooltip={job === undefined ? missing : phaseOf(job, trans)}
          noFocusOnClick={false}
          onClick={() => void execute()}
        />
        {count > 0 && (
          <span className="jp-ds01-Badge" aria-hidden={true}>
            {count}
          </span>
        )}
      </>
    );
  }
}
