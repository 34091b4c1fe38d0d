import type { Event, ServerConnection } from '@jupyterlab/services';
import { EventManager } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import type { IServerEvent, IServerEvents } from './tokens';

const OWN = /^https:\/\/events\.ds01-kernels\.org\/(drift|job|container)\/v1$/;

/**
 * Our events on Jupyter's event stream.
 *
 * It is a stream of its own beside that of the application: events that were emitted while the socket was
 * down are never sent again, and only who opens the socket learns that it was.
 */
export class ServerEvents implements IServerEvents, IDisposable {
  constructor(settings: ServerConnection.ISettings) {
    const opened = () => this._opened.emit();
    const Plain = settings.WebSocket;
    class Observed extends Plain {
      constructor(...given: ConstructorParameters<typeof WebSocket>) {
        super(...given);
        this.addEventListener('open', opened);
      }
    }
    this._manager = new EventManager({ serverSettings: { ...settings, WebSocket: Observed } });
    this._manager.stream.connect(this.onEmitted, this);
  }

  get emitted(): ISignal<this, IServerEvent> {
    return this._emitted;
  }

  get opened(): ISignal<this, void> {
    return this._opened;
  }

  get isDisposed(): boolean {
    return this._manager.isDisposed;
  }

  dispose(): void {
    this._manager.dispose();
    Signal.clearData(this);
  }

  private onEmitted(_: unknown, emission: Event.Emission): void {
    const event = read(emission);
    if (event !== null) {
      this._emitted.emit(event);
    }
  }

  private readonly _manager: EventManager;
  private readonly _emitted = new Signal<this, IServerEvent>(this);
  private readonly _opened = new Signal<this, void>(this);
}

/** One of our events, or null: others may emit what they like under any name. */
export function read(emission: Readonly<Record<string, unknown>>): IServerEvent | null {
  const { schema_id: schema, project, id } = emission;
  const kind = typeof schema === 'string' ? OWN.exec(schema)?.[1] : undefined;
  if (kind === undefined || typeof project !== 'string') {
    return null;
  }
  return { kind: kind as IServerEvent['kind'], project, id: typeof id === 'string' ? id : '' };
}
