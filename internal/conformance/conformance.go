// Package conformance holds the suites that every implementation of an interface
// must pass.
//
// A suite is one function that takes the test and a maker of the implementation
// under test. A bug that is found in one implementation becomes a case here, for
// all of them. Only tests import this package.
package conformance
