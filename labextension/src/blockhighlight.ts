import type { EditorState, Extension, Range } from '@codemirror/state';
import type { DecorationSet, EditorView, ViewUpdate } from '@codemirror/view';
import { Decoration, ViewPlugin, WidgetType } from '@codemirror/view';
import type { CodeEditor } from '@jupyterlab/codeeditor';
import { managedBlock } from './managedblock';

const DOCKERFILE = 'text/x-dockerfile';
/** Longer files are left alone: none that somebody wrote is. */
const MOST_LINES = 5000;

/** Marks the block that is ours in editors of Dockerfiles; `note` stands at the end of its heading. */
export function blockHighlight(model: CodeEditor.IModel, note: string): Extension {
  return ViewPlugin.define(view => new Highlight(view, model, note), {
    decorations: ({ decorations }) => decorations
  });
}

class Highlight {
  constructor(
    view: EditorView,
    private readonly model: CodeEditor.IModel,
    note: string
  ) {
    this._note = new Note(note);
    this.decorations = this.found(view.state);
  }

  decorations: DecorationSet;

  update(update: ViewUpdate): void {
    // An editor learns its language after it was made.
    if (update.docChanged || update.transactions.some(({ reconfigured }) => reconfigured)) {
      this.decorations = this.found(update.state);
    }
  }

  private found({ doc }: EditorState): DecorationSet {
    if (this.model.mimeType !== DOCKERFILE || doc.lines > MOST_LINES) {
      return Decoration.none;
    }
    const block = managedBlock(doc.toString().split('\n'));
    if (block === null) {
      return Decoration.none;
    }
    const marks: Range<Decoration>[] = [];
    for (let line = block.first; line <= block.last; line++) {
      const { from, to } = doc.line(line);
      marks.push(LINE.range(from));
      if (line === block.first) {
        marks.push(Decoration.widget({ widget: this._note, side: 1 }).range(to));
      }
    }
    return Decoration.set(marks);
  }

  private readonly _note: Note;
}

const LINE = Decoration.line({ class: 'jp-ds01-Managed' });

class Note extends WidgetType {
  constructor(private readonly text: string) {
    super();
  }

  override eq(other: Note): boolean {
    return this.text === other.text;
  }

  override toDOM(): HTMLElement {
    const node = document.createElement('span');
    node.className = 'jp-ds01-Managed-note';
    node.textContent = this.text;
    return node;
  }
}
