import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

/** The settings of one plugin: what the user chose, where it is of the right kind, else what we chose. */
export class Options<T extends Readonly<Record<string, boolean | string>>> {
  constructor(private readonly defaults: T) {
    this._values = defaults;
  }

  get values(): T {
    return this._values;
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Follow the settings that the schema of that plugin describes. Without a registry the defaults stay. */
  async follow(registry: ISettingRegistry | null, plugin: string): Promise<void> {
    try {
      const settings = await registry?.load(plugin);
      settings?.changed.connect(({ composite }) => this.take(composite));
      this.take(settings?.composite ?? {});
    } catch (error) {
      console.warn(`The settings of ${plugin} cannot be read, so its defaults hold.`, error);
    }
  }

  private take(chosen: ISettingRegistry.ISettings['composite']): void {
    const known = Object.entries(chosen).filter(
      ([name, value]) => name in this.defaults && typeof value === typeof this.defaults[name]
    );
    this._values = { ...this.defaults, ...Object.fromEntries(known) };
    this._changed.emit();
  }

  private _values: T;
  private readonly _changed = new Signal<this, void>(this);
}
