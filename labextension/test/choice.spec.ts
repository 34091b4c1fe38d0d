import { Choice, nameIn } from '../src/choice';
import type { IChoice, IDriftItem, IPackages, IPreview, IServer } from '../src/tokens';

function item(name: string, more: Partial<IDriftItem> = {}): IDriftItem {
  return { name, version: '1.0', requested: true, dependencies: [], ...more };
}

const NONE = { added: [], changed: [], removed: [], unpinnable: [] };
const PACKAGES: IPackages = {
  python: '/usr/bin/python',
  running: true,
  packages: [],
  broken: [],
  drift: {
    added: [item('six'), item('mine')],
    changed: [item('numpy', { from: '0.9' })],
    removed: [item('toml')],
    unpinnable: [item('mine', { reason: 'it is editable' })]
  },
  lost: NONE
};

/** Writes what it is asked for, as the server does. */
class Previews {
  asked: IChoice[] = [];

  constructor(private readonly packages: IPackages) {}

  asServer(): IServer {
    const answers: Partial<IServer> = {
      packages: () => Promise.resolve(this.packages),
      preview: (_, choice) => {
        this.asked.push(choice);
        return Promise.resolve(this.preview(choice));
      }
    };
    return answers as IServer;
  }

  private preview({ packages, pin }: IChoice): IPreview {
    const all = pin ? ['six==1.0', 'numpy==1.0'] : ['six', 'numpy'];
    const written = packages ?? (this.packages.drift.added.length > 0 ? all : []);
    return {
      file: 'Dockerfile',
      sha256: 'before',
      result_sha256: written.join(' '),
      diff: written.map(text => `+${text}`).join('\n'),
      packages: written,
      removed: packages === undefined ? ['toml'] : [],
      unpinnable: packages === undefined ? [{ name: 'mine', reason: 'it is editable' }] : [],
      stops_first: '',
      kernels: [
        { id: 'one', name: 'a.ipynb', path: 'thesis/a.ipynb', state: 'idle' },
        { id: 'two', name: 'b.ipynb', path: 'thesis/b.ipynb', state: 'busy' }
      ]
    };
  }
}

describe('Choice', () => {
  it('takes the whole drift, and the kernels that are idle', async () => {
    const choice = await Choice.load(new Previews(PACKAGES).asServer(), 'thesis');
    const order = await choice.order();
    expect(order).toEqual({
      pin: true,
      sha256: 'before',
      result_sha256: 'six==1.0 numpy==1.0',
      kernels: ['one']
    });
  });

  it('begins as it is told to', async () => {
    const previews = new Previews(PACKAGES);
    const choice = await Choice.load(previews.asServer(), 'thesis', { pin: false, restart: 'all' });
    expect(await choice.order()).toMatchObject({
      pin: false,
      result_sha256: 'six numpy',
      kernels: ['one', 'two']
    });
    expect(previews.asked).toEqual([{ pin: false }]);
    const none = await Choice.load(previews.asServer(), 'thesis', { pin: true, restart: 'none' });
    expect((await none.order()).kernels).toEqual([]);
  });

  it('says of each package what becomes of it', async () => {
    const choice = await Choice.load(new Previews(PACKAGES).asServer(), 'thesis');
    const rows = choice.rows.map(({ item: { name }, kind, reason, isTicked }) => [
      name,
      kind,
      reason,
      isTicked
    ]);
    expect(rows).toEqual([
      ['six', 'added', '', true],
      ['mine', 'added', 'it is editable', false],
      ['numpy', 'changed', '', true],
      ['toml', 'removed', '', true]
    ]);
  });

  it('names the packages once one is left out, and takes nothing else out then', async () => {
    const choice = await Choice.load(new Previews(PACKAGES).asServer(), 'thesis');
    await choice.tick('six', false);
    expect(await choice.order()).toMatchObject({ packages: ['numpy==1.0'], result_sha256: 'numpy==1.0' });
    expect(choice.rows.find(({ item: { name } }) => name === 'toml')?.isTicked).toBe(false);
    await choice.tick('six', true);
    expect((await choice.order()).packages).toBeUndefined();
  });

  it('writes what was typed when versions are not wanted, also of some', async () => {
    const choice = await Choice.load(new Previews(PACKAGES).asServer(), 'thesis');
    await choice.tick('numpy', false);
    await choice.setPin(false);
    expect(await choice.order()).toMatchObject({ packages: ['six'], pin: false });
  });

  it('waits for the preview of the last choice', async () => {
    const choice = await Choice.load(new Previews(PACKAGES).asServer(), 'thesis');
    void choice.setPin(false);
    expect(choice.isPending).toBe(true);
    expect((await choice.order()).result_sha256).toBe('six numpy');
    expect(choice.isPending).toBe(false);
  });

  it('knows that there is nothing to save', async () => {
    const choice = await Choice.load(new Previews({ ...PACKAGES, drift: NONE }).asServer(), 'thesis');
    expect(choice.isEmpty).toBe(true);
    expect(choice.rows).toEqual([]);
  });

  it('finds names as pip compares them', () => {
    expect(nameIn('Zope.Interface[extra]>=5')).toBe('zope-interface');
    expect(nameIn('six @ https://example.org/six.whl')).toBe('six');
  });
});
