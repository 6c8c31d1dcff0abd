package inbox

// What the tests, which live in package inbox_test, look at inside.
const StatementPurge = purgeSQL
