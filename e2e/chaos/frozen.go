package main

import "context"

func runFrozen(ctx context.Context) error { return nil }
