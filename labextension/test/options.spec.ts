import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import { Signal } from '@lumino/signaling';
import { Options } from '../src/options';

class Settings {
  composite: Record<string, unknown> = {};
  readonly changed = new Signal<this, void>(this);
  readonly asRegistry = { load: () => Promise.resolve(this) } as unknown as ISettingRegistry;
}

describe('Options', () => {
  function made(): Options<{ card: boolean; area: string }> {
    return new Options<{ card: boolean; area: string }>({ card: true, area: 'left' });
  }

  it('takes what the user chose, then and later', async () => {
    const settings = new Settings();
    settings.composite = { card: false };
    const options = made();
    await options.follow(settings.asRegistry, 'plugin');
    expect(options.values).toEqual({ card: false, area: 'left' });
    const heard = jest.fn();
    options.changed.connect(heard);
    settings.composite = { card: true, area: 'right' };
    settings.changed.emit();
    expect(options.values).toEqual({ card: true, area: 'right' });
    expect(heard).toHaveBeenCalledTimes(1);
  });

  it('keeps what it has for what it cannot use', async () => {
    const settings = new Settings();
    settings.composite = { card: 'yes', area: 3, other: true };
    const options = made();
    await options.follow(settings.asRegistry, 'plugin');
    expect(options.values).toEqual({ card: true, area: 'left' });
  });

  it('keeps what it has where there is no registry, or no schema', async () => {
    const options = made();
    await options.follow(null, 'plugin');
    const warn = jest.spyOn(console, 'warn').mockImplementation();
    await options.follow(
      { load: () => Promise.reject(new Error('no')) } as unknown as ISettingRegistry,
      'plugin'
    );
    expect(warn).toHaveBeenCalledTimes(1);
    expect(options.values).toEqual({ card: true, area: 'left' });
  });
});
