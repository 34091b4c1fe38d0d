// JupyterLab's packages are ES modules: they are translated for Jest like our own source.
module.exports = {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/test/**/*.spec.ts'],
  extensionsToTreatAsEsm: [],
  transform: {
    '^.+\\.(ts|tsx|js|mjs)$': [
      'ts-jest',
      { tsconfig: { allowJs: true, module: 'commonjs', moduleResolution: 'node10', target: 'ES2022', jsx: 'react', esModuleInterop: true, isolatedModules: true, strict: true } }
    ]
  },
  transformIgnorePatterns: ['/node_modules/(?!(@jupyterlab|@lumino|@jupyter)/)']
};
