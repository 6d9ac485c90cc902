package hub

// CollectAt is Collect at another time.
var CollectAt = collectAt
