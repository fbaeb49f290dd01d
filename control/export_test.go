package control

// Metrics returns all metrics that vcsync makes.
func Metrics() []*metric { return metrics }

// Hear takes in what a process said.
var Hear = (*Reports).hear
