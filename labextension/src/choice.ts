import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import { Coalesced } from './coalesced';
import type {
  IChoice,
  IDriftItem,
  IPackages,
  IPreview,
  IPreviewKernel,
  IRebuildOrder,
  IServer
} from './tokens';

/** One package that differs, and what becomes of it. */
export interface IRow {
  readonly item: IDriftItem;
  readonly kind: 'added' | 'changed' | 'removed';
  /** Why it cannot be written; empty for those that can. */
  readonly reason: string;
  readonly isTicked: boolean;
}

/** How a choice begins: whether versions are written, and which kernels are ticked. */
export interface IBeginning extends Readonly<Record<string, boolean | string>> {
  readonly pin: boolean;
  /** "idle", "all" or "none". */
  readonly restart: string;
}

/** What the user chooses for a save or a rebuild, and the preview of exactly that. */
export class Choice {
  private constructor(
    private readonly server: IServer,
    readonly project: string
  ) {}

  /** Rejects with the server's `RequestError`. */
  static async load(server: IServer, project: string, beginning = BEGINNING): Promise<Choice> {
    const made = new Choice(server, project);
    const { pin, restart } = beginning;
    made._pin = made._allPin = pin;
    [made._packages, made._preview] = await Promise.all([
      server.packages(project),
      server.preview(project, { pin })
    ]);
    made._all = made._preview;
    const ticked = made._preview.kernels.filter(
      ({ state }) => restart === 'all' || (restart === 'idle' && state !== 'busy')
    );
    made._kernels = new Set(ticked.map(({ id }) => id));
    return made;
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get preview(): IPreview {
    return this._preview;
  }

  /** Whether the preview shown is not yet that of the choice. */
  get isPending(): boolean {
    return this._pending > 0;
  }

  /** Why the last preview could not be had; empty when it could. */
  get problem(): string {
    return this._problem;
  }

  get pin(): boolean {
    return this._pin;
  }

  get rows(): readonly IRow[] {
    const { added, changed, removed, unpinnable } = this._packages.drift;
    const reasons = new Map(this._all.unpinnable.map(({ name, reason }) => [normalised(name), reason]));
    const named = new Set([...added, ...changed].map(({ name }) => name));
    const written = new Set(this._all.packages.map(nameIn));
    const row = (item: IDriftItem, kind: IRow['kind']): IRow => {
      const lost = kind !== 'removed' && !written.has(normalised(item.name));
      const reason = reasons.get(normalised(item.name)) ?? item.reason ?? (lost ? ' ' : '');
      return { item, kind, reason, isTicked: !reason && !this._left.has(normalised(item.name)) };
    };
    return [
      ...added.map(item => row(item, 'added')),
      ...changed.map(item => row(item, 'changed')),
      ...unpinnable
        .filter(({ name }) => !named.has(name))
        .map(item => row(item, item.from ? 'changed' : 'added')),
      // Chosen packages are written alone: what was uninstalled then stays in the Dockerfile.
      ...removed.map(item => ({ ...row(item, 'removed'), isTicked: this._left.size === 0 }))
    ];
  }

  /** Whether there is anything to write. */
  get isEmpty(): boolean {
    return this._all.diff === '';
  }

  isKernelTicked(kernel: IPreviewKernel): boolean {
    return this._kernels.has(kernel.id);
  }

  tickKernel(id: string, on: boolean): void {
    put(this._kernels, id, on);
    this._changed.emit();
  }

  async tick(name: string, on: boolean): Promise<void> {
    put(this._left, normalised(name), !on);
    await this.update();
  }

  async setPin(on: boolean): Promise<void> {
    this._pin = on;
    await this.update();
  }

  /** What to ask the server for: what is shown, when that is the preview of the choice. */
  async order(): Promise<IRebuildOrder> {
    while (this._updating !== null) {
      await this._updating;
    }
    const { sha256, result_sha256 } = this._preview;
    return { ...this.wanted(), sha256, result_sha256, kernels: [...this._kernels] };
  }

  private update(): Promise<void> {
    const updating = this.readAgain().finally(() => {
      if (this._updating === updating) {
        this._updating = null;
      }
    });
    this._updating = updating;
    return updating;
  }

  private async readAgain(): Promise<void> {
    this._pending += 1;
    this._changed.emit();
    try {
      await this._reading.run();
      this._problem = '';
    } catch (error) {
      this._problem = error instanceof Error ? error.message : String(error);
    } finally {
      this._pending -= 1;
      this._changed.emit();
    }
  }

  private readonly _reading = new Coalesced(async () => {
    const pin = this._pin;
    if (this._allPin !== pin || this._left.size === 0) {
      this._all = await this.server.preview(this.project, { pin });
      this._allPin = pin;
    }
    this._preview =
      this._left.size === 0 ? this._all : await this.server.preview(this.project, this.wanted());
  });

  private wanted(): IChoice {
    if (this._left.size === 0) {
      return { pin: this._pin };
    }
    return { packages: this._all.packages.filter(text => !this._left.has(nameIn(text))), pin: this._pin };
  }

  private _packages!: IPackages;
  private _preview!: IPreview;
  /** The preview of the whole drift: from it comes how each package would be written. */
  private _all!: IPreview;
  private _allPin = true;
  private _kernels = new Set<string>();
  private readonly _left = new Set<string>();
  private _pin = true;
  private _pending = 0;
  private _updating: Promise<void> | null = null;
  private _problem = '';
  private readonly _changed = new Signal<this, void>(this);
}

// What computes just now is lost by a restart; whoever wants that ticks it.
const BEGINNING: IBeginning = { pin: true, restart: 'idle' };

/** The name in a requirement, normalised. */
export function nameIn(requirement: string): string {
  return normalised(/^[\w.-]+/.exec(requirement)?.[0] ?? '');
}

// https://packaging.python.org/en/latest/specifications/name-normalization/
function normalised(name: string): string {
  return name.replace(/[-_.]+/g, '-').toLowerCase();
}

function put(set: Set<string>, value: string, on: boolean): void {
  if (on) {
    set.add(value);
  } else {
    set.delete(value);
  }
}
