package main

import (
	"context"
	"errors"
)

func runReencryptOld(ctx context.Context, a *app, o reencryptOptions) error {
	return errors.New("TODO")
}
