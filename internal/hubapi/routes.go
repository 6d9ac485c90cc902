package hubapi

import "slices"

// Routes is the table. Each part of the Hub has a file with its own.
func Routes() []Route {
	return slices.Concat(
		accountRoutes(),
		sessionRoutes(),
		organizationRoutes(),
		repositoryRoutes(),
		journalRoutes(),
		policyRoutes(),
		pullRoutes(),
		reviewRoutes(),
		webhookRoutes(),
		proxyRoutes(),
		peopleRoutes(),
		operationRoutes(),
		documentRoutes(),
	)
}
