import { Signal } from '@lumino/signaling';
import type { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import type { ILauncher } from '@jupyterlab/launcher';
import { kernelIn, LauncherOrder } from '../src/kernelorder';
import type { IProject, IProjectsModel } from '../src/tokens';

/** What the launcher, the file browser and the model do as far as it matters here. */
class Scene {
  readonly cards: ILauncher.IItemOptions[] = [
    { command: 'notebook', args: { kernelName: 'python3' }, rank: 0 },
    { command: 'notebook', args: { kernelName: 'ds01-other' }, rank: Infinity },
    { command: 'notebook', args: { kernelName: 'ds01-thesis' }, rank: Infinity },
    { command: 'console', args: { kernelPreference: { name: 'ds01-thesis' } }, rank: Infinity },
    { command: 'terminal', args: {}, rank: 5 }
  ];
  readonly stateChanged = new Signal<this, void>(this);
  readonly pathChanged = new Signal<this, void>(this);
  readonly changed = new Signal<this, void>(this);
  path = 'thesis/data';
  draws = 0;

  readonly order = new LauncherOrder(
    { items: () => this.cards.values(), stateChanged: this.stateChanged } as unknown as ILauncher.IModel,
    {
      changed: this.changed,
      owner: (path: string) =>
        path.startsWith('thesis') ? ({ kernel_name: 'ds01-thesis' } as IProject) : undefined
    } as unknown as IProjectsModel,
    { model: { pathChanged: this.pathChanged, path: '' } } as unknown as IDefaultFileBrowser,
    () => this.draws++
  );
}

describe('LauncherOrder', () => {
  let scene: Scene;

  beforeEach(() => {
    scene = new Scene();
  });

  async function ranks(path: string): Promise<(number | undefined)[]> {
    const { order } = scene as unknown as { order: { browser: { model: { path: string } } } };
    order.browser.model.path = path;
    scene.pathChanged.emit();
    await Promise.resolve();
    return scene.cards.map(({ rank }) => rank);
  }

  it('puts the kernel of the folder first, and back', async () => {
    scene.order.isOn = true;
    expect(await ranks('thesis/data')).toEqual([0, Infinity, -1, -1, 5]);
    expect(await ranks('elsewhere')).toEqual([0, Infinity, Infinity, Infinity, 5]);
    expect(scene.draws).toBe(2);
  });

  it('draws nothing where nothing has moved', async () => {
    scene.order.isOn = true;
    await ranks('thesis');
    scene.stateChanged.emit();
    scene.changed.emit();
    await ranks('thesis');
    expect(scene.draws).toBe(1);
  });

  it('leaves everything as it is when it is off', async () => {
    expect(await ranks('thesis')).toEqual([0, Infinity, Infinity, Infinity, 5]);
  });

  it('reads the kernel of a card', () => {
    expect(kernelIn({})).toBeUndefined();
    expect(kernelIn({ kernelPreference: null })).toBeUndefined();
  });
});
