import type { IDisposable } from '@lumino/disposable';
import { Widget } from '@lumino/widgets';

/** Milliseconds for which the pointer rests before a card opens; and in which it may go over to the card. */
const REST = 300;
const LEAVE = 200;
/** Pixels between the card and what is around it. */
const GAP = 4;

/**
 * A card below a node, while the pointer rests on either or the keyboard has brought the focus there.
 *
 * As https://www.w3.org/WAI/WCAG22/Understanding/content-on-hover-or-focus.html wants it: Escape dismisses it,
 * the pointer can go there, and it stays until it is left.
 */
export class HoverCard implements IDisposable {
  /** `make` is called for each opening; what it makes is disposed at the closing. */
  constructor(private readonly make: () => Widget) {}

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  get isOpen(): boolean {
    return this._card !== null;
  }

  dispose(): void {
    this._isDisposed = true;
    this.close();
  }

  /** To be called when the pointer or the focus comes to the node. */
  approach(anchor: HTMLElement, delay = REST): void {
    window.clearTimeout(this._timer);
    if (!this.isOpen) {
      this._timer = window.setTimeout(() => this.open(anchor), delay);
    }
  }

  leave(): void {
    window.clearTimeout(this._timer);
    this._timer = window.setTimeout(() => this.close(), LEAVE);
  }

  close(): void {
    window.clearTimeout(this._timer);
    document.removeEventListener('keydown', this._onKey, true);
    this._sizes?.disconnect();
    this._anchor?.removeAttribute('aria-describedby');
    this._card?.dispose();
    this._card = this._sizes = this._anchor = null;
  }

  private open(anchor: HTMLElement): void {
    if (this._isDisposed || !anchor.isConnected) {
      return;
    }
    const card = this.make();
    card.id = `jp-ds01-card-${HoverCard.count++}`;
    card.addClass('jp-ds01-Card');
    card.node.setAttribute('role', 'tooltip');
    card.node.addEventListener('pointerenter', () => window.clearTimeout(this._timer));
    card.node.addEventListener('pointerleave', () => this.leave());
    this._card = card;
    this._anchor = anchor;
    anchor.setAttribute('aria-describedby', card.id);
    Widget.attach(card, document.body);
    document.addEventListener('keydown', this._onKey, true);
    // Its content comes with the next rendering, and grows when more is known.
    this._sizes = new ResizeObserver(() => this.place());
    this._sizes.observe(card.node);
  }

  /** Below the node, or above it where there is no room, and inside the window. */
  private place(): void {
    if (this._card === null || this._anchor === null) {
      return;
    }
    const { node } = this._card;
    const { left, top, bottom } = this._anchor.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = node;
    const isBelow = bottom + GAP + height <= window.innerHeight || top < height + GAP;
    node.style.top = `${isBelow ? bottom + GAP : top - GAP - height}px`;
    node.style.left = `${Math.max(Math.min(left, window.innerWidth - width - GAP), 0)}px`;
  }

  private readonly _onKey = (event: KeyboardEvent): void => {
    if (event.key === 'Escape') {
      this.close();
    }
  };

  private static count = 0;
  private _timer = 0;
  private _card: Widget | null = null;
  private _anchor: HTMLElement | null = null;
  private _sizes: ResizeObserver | null = null;
  private _isDisposed = false;
}
