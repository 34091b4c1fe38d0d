import eslint from '@eslint/js';
import tseslint from 'typescript-eslint';

export default tseslint.config(
  { ignores: ['lib/', 'node_modules/', 'style/index.js', '*.mjs', '*.cjs'] },
  eslint.configs.recommended,
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { project: ['./tsconfig.json', './test/tsconfig.json'] } },
    rules: {
      '@typescript-eslint/no-explicit-any': 'error',
      // A signal is given the method and its `this` apart.
      '@typescript-eslint/unbound-method': 'off',
      // JupyterLab's form for the names of commands.
      '@typescript-eslint/no-namespace': 'off',
      // Lumino's signals and React's handlers are called for what they do.
      '@typescript-eslint/no-confusing-void-expression': 'off',
      '@typescript-eslint/no-invalid-void-type': 'off',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      eqeqeq: 'error'
    }
  }
);
