package main

import "context"

func newKube(context.Context, string, string) (system, error) {
	return nil, &absent{"kube-apiserver", "e2e/kube/build"}
}
