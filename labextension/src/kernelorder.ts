import type { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import type { ILauncher } from '@jupyterlab/launcher';
import type { Arguments, IProjectsModel } from './tokens';

/** Before the default kernel, which has 0. */
const FIRST = -1;

/** Sorts the cards of one project's kernel before all others: that of the folder which the launcher shows. */
export class LauncherOrder {
  /** `redraw` is called when cards have another order, and the launcher may not know. */
  constructor(
    private readonly launcher: ILauncher.IModel,
    private readonly model: IProjectsModel,
    private readonly browser: IDefaultFileBrowser,
    private readonly redraw: () => void
  ) {
    launcher.stateChanged.connect(this.onChange, this);
    browser.model.pathChanged.connect(this.onChange, this);
    model.changed.connect(this.onChange, this);
  }

  set isOn(on: boolean) {
    this._isOn = on;
    this.onChange();
  }

  /** Cards come one by one; all is done once, and before they are drawn. */
  private onChange(): void {
    if (!this._isWaiting) {
      this._isWaiting = true;
      queueMicrotask(() => {
        this._isWaiting = false;
        this.sort();
      });
    }
  }

  private sort(): void {
    const first = this._isOn ? this.model.owner(this.browser.model.path)?.kernel_name : undefined;
    let isOther = false;
    for (const item of this.launcher.items()) {
      const kernel = kernelIn(item.args ?? {});
      if (kernel === undefined) {
        continue;
      }
      if (!this._ranks.has(item)) {
        this._ranks.set(item, item.rank);
      }
      const rank = kernel === first ? FIRST : this._ranks.get(item);
      isOther ||= rank !== item.rank;
      item.rank = rank;
    }
    if (isOther) {
      this.redraw();
    }
  }

  private _isOn = false;
  private _isWaiting = false;
  /** What each card's rank is by itself. */
  private readonly _ranks = new WeakMap<ILauncher.IItemOptions, number | undefined>();
}

/** The kernel that a card of a notebook or a console starts. */
export function kernelIn({ kernelName, kernelPreference }: Arguments): string | undefined {
  if (typeof kernelName === 'string') {
    return kernelName;
  }
  const name = (kernelPreference as Arguments | null | undefined)?.name;
  return typeof name === 'string' ? name : undefined;
}

/**
 * In a dialog that asks for a kernel, move that one to the top of its group.
 *
 * What is selected stays selected. In other dialogs nothing is found.
 */
export function putFirst(dialog: HTMLElement, kernel: string): void {
  const value = JSON.stringify({ name: kernel });
  for (const option of dialog.querySelectorAll<HTMLOptionElement>('.jp-Dialog-body select option')) {
    if (option.value === value) {
      option.parentElement?.prepend(option);
    }
  }
}
