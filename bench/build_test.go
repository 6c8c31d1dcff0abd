package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The programs that bench measures are built from the checkout, wherever their folders are.
func TestBuild(t *testing.T) {
	into := t.TempDir()
	if err := build(t.Context(), into); err != nil {
		t.Fatal(err)
	}
	for name := range programs {
		if _, err := os.Stat(filepath.Join(into, name)); err != nil {
			t.Error(err)
		}
	}
}
