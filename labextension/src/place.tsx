import { Dialog, ReactWidget, showDialog, UseSignal } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';
import { factsOf, withoutContainer } from './facts';
import { HoverCard } from './hovercard';
import { containerIcon } from './icons';
import type { KernelWatch } from './kernelwatch';
import type { Options } from './options';
import { stateOf } from './words';

/** `interpreter`: the toolbar names it. `card`: there is one where the pointer rests. */
export interface IPlaceOptions extends Record<string, boolean> {
  readonly interpreter: boolean;
  readonly card: boolean;
}

/** In the notebook's toolbar: the container, its state and the interpreter; or "host". */
export class PlaceItem extends ReactWidget {
  constructor(
    private readonly watch: KernelWatch,
    private readonly options: Options<IPlaceOptions>,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-ds01-Place');
    watch.changed.connect(this.onChange, this);
    options.changed.connect(this.onChange, this);
    this._card = new HoverCard(() => {
      void refreshed(this.watch);
      return new PlaceBody(this.watch, this.trans);
    });
  }

  override dispose(): void {
    this.options.changed.disconnect(this.onChange, this);
    this._card.dispose();
    this.watch.dispose();
    super.dispose();
  }

  protected override onAfterHide(): void {
    this._card.close();
  }

  override render(): React.ReactElement {
    const { place, project } = this.watch;
    const { trans } = this;
    if (place === null) {
      return <></>;
    }
    return (
      <button
        className="jp-ds01-Place-button jp-mod-minimal"
        aria-label={
          project === null
            ? undefined
            : trans.__(
                'Kernel in container %1, %2',
                project.container ?? project.name,
                stateOf(project, trans)
              )
        }
        onClick={() => {
          this._card.close();
          void showPlace(this.watch, trans);
        }}
        onPointerEnter={event => this.approach(event.currentTarget)}
        onPointerLeave={() => this._card.leave()}
        onFocus={event => {
          if (event.currentTarget.matches(':focus-visible')) {
            this.approach(event.currentTarget);
          }
        }}
        onBlur={() => this._card.leave()}
      >
        {project === null ? (
          <span className="jp-ds01-Place-host">
            {place.is_on_host ? trans.__('host') : trans.__('no container')}
          </span>
        ) : (
          this.container(project.container ?? project.name, project.state, stateOf(project, trans))
        )}
      </button>
    );
  }

  private container(name: string, state: string | null, words: string): React.ReactElement {
    const python = this.options.values.interpreter ? this.watch.details?.python?.executable : undefined;
    return (
      <>
        <containerIcon.react tag="span" className="jp-ds01-Place-icon" aria-hidden={true} />
        <span className="jp-ds01-Place-name">{name}</span>
        <span className="jp-ds01-Place-state" data-state={state}>
          {words}
        </span>
        {python !== undefined && <span className="jp-ds01-Place-python">{python}</span>}
      </>
    );
  }

  private approach(button: HTMLElement): void {
    if (this.options.values.card) {
      this._card.approach(button);
    }
  }

  /** The interpreter is asked for once for each container and state of it. */
  private onChange(): void {
    const { project } = this.watch;
    const seen = project === null ? '' : [project.name, project.container, project.state].join(' ');
    if (seen !== this._seen && this.options.values.interpreter) {
      this._seen = seen;
      void refreshed(this.watch);
    }
    this.update();
  }

  private _seen = '';
  private readonly _card: HoverCard;
}

/** A dialog with all that is known about where this kernel runs. */
export async function showPlace(watch: KernelWatch, trans: TranslationBundle): Promise<void> {
  void refreshed(watch);
  await showDialog({
    title: trans.__('Where this notebook runs'),
    body: new PlaceBody(watch, trans),
    buttons: [Dialog.okButton({ label: trans.__('Close') })]
  });
}

/** Reads what is asked for only here: how the container is now. */
async function refreshed(watch: KernelWatch): Promise<void> {
  try {
    await watch.readDetails();
  } catch {
    // What the list of projects tells is shown all the same.
  }
}

class PlaceBody extends ReactWidget {
  constructor(
    private readonly watch: KernelWatch,
    private readonly trans: TranslationBundle
  ) {
    super();
    this.addClass('jp-ds01-Facts');
  }

  override render(): React.ReactElement {
    return <UseSignal signal={this.watch.changed}>{() => this.facts()}</UseSignal>;
  }

  private facts(): React.ReactElement {
    const { place, project, details } = this.watch;
    if (project === null) {
      return <p>{withoutContainer(place, this.trans)}</p>;
    }
    return (
      <dl>
        {factsOf(project, details, Date.now(), this.trans).map(({ label, value }) => (
          <React.Fragment key={label}>
            <dt>{label}</dt>
            <dd>{value}</dd>
          </React.Fragment>
        ))}
      </dl>
    );
  }
}
