import { Dialog, ReactWidget, UseSignal } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';
import type { Choice, IRow } from './choice';
import { useGrowing } from './growing';
import type { IPreviewKernel } from './tokens';

/** Whether the packages are only written, or the image is built too. */
export type Mode = 'rebuild' | 'save';

/** Asks what is to be made permanent; resolves to whether to go on. */
export async function askRebuild(choice: Choice, mode: Mode, trans: TranslationBundle): Promise<boolean> {
  const dialog = new Dialog<unknown>({
    title:
      mode === 'rebuild'
        ? trans.__('Rebuild %1', choice.project)
        : trans.__('Save packages of %1', choice.project),
    body: new RebuildBody(choice, mode, trans),
    buttons: [Dialog.cancelButton(), Dialog.okButton({ label: verb(choice, mode, trans) })]
  });
  dialog.addClass('jp-ds01-RebuildDialog');
  return (await dialog.launch()).button.accept;
}

function verb(choice: Choice, mode: Mode, trans: TranslationBundle): string {
  if (mode === 'save') {
    return trans.__('Save');
  }
  return choice.isEmpty ? trans.__('Rebuild Anyway') : trans.__('Rebuild');
}

class RebuildBody extends ReactWidget {
  constructor(
    private readonly choice: Choice,
    private readonly mode: Mode,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-ds01-Rebuild');
    // It scrolls; and the dialog looks for where Tab goes after the last button before anything is rendered.
    this.node.tabIndex = 0;
    this.node.setAttribute('role', 'group');
    this.node.setAttribute('aria-label', trans.__('What is made permanent'));
  }

  override render(): React.ReactElement {
    return (
      <UseSignal signal={this.choice.changed}>
        {() => <Sections choice={this.choice} mode={this.mode} trans={this.trans} />}
      </UseSignal>
    );
  }
}

interface IProps {
  readonly choice: Choice;
  readonly mode: Mode;
  readonly trans: TranslationBundle;
}

function Sections({ choice, mode, trans }: IProps): React.ReactElement {
  const { problem, preview } = choice;
  return (
    <>
      {choice.rows.length > 0 && <Packages choice={choice} trans={trans} />}
      {choice.isEmpty && (
        <p>
          {mode === 'rebuild'
            ? trans.__('Nothing to save: the image is built again from %1 as it is.', preview.file)
            : trans.__('Nothing to save.')}
        </p>
      )}
      {problem && (
        <p className="jp-ds01-error" role="alert">
          {problem}
        </p>
      )}
      {!choice.isEmpty && <Diff choice={choice} trans={trans} />}
      {mode === 'rebuild' && <Kernels choice={choice} trans={trans} />}
    </>
  );
}

function Packages({ choice, trans }: Omit<IProps, 'mode'>): React.ReactElement {
  const { rows } = choice;
  const [shown, end] = useGrowing<HTMLTableRowElement>(rows.length);
  const hasChoice = rows.some(row => !row.reason && row.kind !== 'removed');
  return (
    <section aria-labelledby="jp-ds01-packages">
      <h3 id="jp-ds01-packages">{trans.__('Packages that the Dockerfile does not have')}</h3>
      <table className="jp-ds01-Table">
        <tbody>
          {rows.slice(0, shown).map(row => (
            <Package key={`${row.kind} ${row.item.name}`} row={row} choice={choice} trans={trans} />
          ))}
          {shown < rows.length && <tr ref={end} aria-hidden={true} />}
        </tbody>
      </table>
      {hasChoice && (
        <label className="jp-ds01-Choice">
          <input
            type="checkbox"
            checked={choice.pin}
            onChange={event => void choice.setPin(event.target.checked)}
          />
          {trans.__('Write the versions that are installed')}
        </label>
      )}
    </section>
  );
}

function Package({ row, choice, trans }: { row: IRow } & Omit<IProps, 'mode'>): React.ReactElement {
  const { item, kind, reason, isTicked } = row;
  const kinds = { added: trans.__('new'), changed: trans.__('changed'), removed: trans.__('uninstalled') };
  const version = item.from && kind !== 'removed' ? `${item.from} → ${item.version}` : item.version;
  const id = `jp-ds01-package-${item.name}`;
  return (
    <tr>
      <td>
        {kind !== 'removed' && (
          <input
            id={id}
            type="checkbox"
            checked={isTicked}
            disabled={reason !== ''}
            onChange={event => void choice.tick(item.name, event.target.checked)}
          />
        )}
      </td>
      <th scope="row">{kind === 'removed' ? item.name : <label htmlFor={id}>{item.name}</label>}</th>
      <td>{version}</td>
      <td>
        {kinds[kind]}
        {item.dependencies.length > 0 && (
          <span title={item.dependencies.map(({ name }) => name).join(', ')}>
            {', '}
            {trans._n('with %1 dependency', 'with %1 dependencies', item.dependencies.length)}
          </span>
        )}
        {reason.trim() && <div className="jp-ds01-warning">{trans.__('cannot be saved: %1', reason)}</div>}
        {kind === 'removed' && (
          <div className="jp-ds01-note">
            {isTicked ? trans.__('leaves the Dockerfile') : trans.__('stays in the Dockerfile')}
          </div>
        )}
      </td>
    </tr>
  );
}

function Diff({ choice, trans }: Omit<IProps, 'mode'>): React.ReactElement {
  const { diff, file } = choice.preview;
  const lines = diff.split('\n').slice(2);
  const [shown, end] = useGrowing<HTMLDivElement>(lines.length);
  return (
    <section aria-labelledby="jp-ds01-diff">
      <h3 id="jp-ds01-diff">{trans.__('What is written into %1', file)}</h3>
      <pre
        className="jp-ds01-Diff"
        tabIndex={0}
        aria-labelledby="jp-ds01-diff"
        aria-busy={choice.isPending}
        role="region"
      >
        {lines.slice(0, shown).map((line, at) => (
          <div key={at} data-sign={line.slice(0, 1)}>
            {line || ' '}
          </div>
        ))}
        {shown < lines.length && <div ref={end}> </div>}
      </pre>
    </section>
  );
}

function Kernels({ choice, trans }: Omit<IProps, 'mode'>): React.ReactElement {
  const { kernels, stops_first: stopsFirst } = choice.preview;
  return (
    <section aria-labelledby="jp-ds01-kernels">
      <h3 id="jp-ds01-kernels">{trans.__('Kernels to restart in the new container')}</h3>
      {stopsFirst && <p className="jp-ds01-warning">{stopsFirst}</p>}
      {kernels.length === 0 && <p>{trans.__('No kernel of this server runs in the container.')}</p>}
      {kernels.map(kernel => (
        <Kernel key={kernel.id} kernel={kernel} choice={choice} trans={trans} />
      ))}
      {kernels.length > 0 && (
        <p className="jp-ds01-note">
          {trans.__(
            'Variables of restarted kernels will be lost. Others keep the old container until they end.'
          )}
        </p>
      )}
    </section>
  );
}

function Kernel(props: { kernel: IPreviewKernel } & Omit<IProps, 'mode'>): React.ReactElement {
  const { kernel, choice, trans } = props;
  const state = kernel.state === 'busy' ? trans.__('busy') : trans.__('idle');
  return (
    <label className="jp-ds01-Choice" title={kernel.path}>
      <input
        type="checkbox"
        checked={choice.isKernelTicked(kernel)}
        onChange={event => choice.tickKernel(kernel.id, event.target.checked)}
      />
      {trans.__('%1 (%2)', kernel.name, state)}
    </label>
  );
}
