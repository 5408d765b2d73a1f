package regions

import (
	"reflect"
	"strings"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Schema is the JSON Schema (2020-12) of one document, a policy or a hold, for
// editors. [ParseDocuments] checks more than a schema can say.
func Schema() map[string]any {
	document := func(kind string, of reflect.Type, beside map[string]any, required ...string) map[string]any {
		s := shape(of)
		props := s["properties"].(map[string]any)
		props["apiVersion"] = map[string]any{"const": APIVersion}
		props["kind"] = map[string]any{"const": kind}
		name := map[string]any{"type": "string", "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"}
		meta := map[string]any{"name": name}
		if kind == KindPolicy {
			meta["owner"] = map[string]any{"type": "string"}
		}
		props["metadata"] = map[string]any{"type": "object", "properties": meta, "required": []string{"name"}, "additionalProperties": false}
		for k, v := range beside {
			props[k] = v
		}
		s["required"] = append([]string{"apiVersion", "kind", "metadata"}, required...)
		return s
	}
	return map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"title":   "Quarry policy or hold",
		"oneOf": []any{
			document(KindPolicy, reflect.TypeFor[Policy](), nil),
			document(KindHold, reflect.TypeFor[Hold](), map[string]any{
				"until": map[string]any{"type": "string", "description": "released, a day such as 2027-01-31, or a moment."},
			}, "select"),
		},
	}
}

// values of fields whose type does not tell, by type and YAML name.
var schemaFields = map[string]map[string]any{
	"Require.atLeast":         {"type": "integer", "minimum": 1},
	"MaxLag.then":             {"enum": []string{string(ThenAlert), string(ThenBlock), string(ThenRequestSnapshot)}},
	"RestorePoints.perRegion": {"type": "integer", "minimum": 1, "maximum": 10_000},
	"Hold.enforce":            {"enum": []string{"checkpoint"}},
	"Delete.requires":         {"type": "array", "items": map[string]any{"enum": deleteNeeds}},
	"Seed.sources":            {"enum": []string{"nearest", "cheapest", "freshest"}},
	"Seed.verify":             {"enum": []string{"full", "sizes"}},
	"Seed.concurrency":        {"type": "integer", "minimum": 1, "maximum": 256},
	"Final.proof":             {"enum": []string{"verified"}},
	"Window.cron":             {"type": "string", "examples": []string{"0 1-5 * * 1-5"}},
	"Window.tz":               {"type": "string", "examples": []string{"Europe/Berlin"}},
	"Window.from":             {"type": "string", "description": "A day or a moment."},
	"Window.to":               {"type": "string", "description": "A day, the last included, or a moment."},
	"PerHour.bytesPercent":    {"type": "number", "minimum": 0, "maximum": 100},
	"Approvals.count":         {"type": "integer", "minimum": 0, "maximum": 10},
	"RestorePoints.total":     {"type": "integer", "minimum": 0, "maximum": 10_000},
	"Seed.maxBytesPerSecond":  {"type": []string{"string", "integer"}, "examples": []string{"50MiB"}},
}

func shape(t reflect.Type) map[string]any {
	props := map[string]any{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if !f.IsExported() || name == "-" || name == "" {
			continue
		}
		if s, ok := schemaFields[t.Name()+"."+name]; ok {
			props[name] = s
			continue
		}
		props[name] = schemaOf(f.Type)
	}
	return map[string]any{"type": "object", "properties": props, "additionalProperties": false}
}

func schemaOf(t reflect.Type) map[string]any {
	switch t {
	case reflect.TypeFor[Duration]():
		return map[string]any{"type": "string", "pattern": `^([0-9]+[dw]|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+|0)$`, "examples": []string{"10m", "36h", "7d"}}
	case reflect.TypeFor[catalog.Kind]():
		return map[string]any{"enum": kindNames(catalog.Kinds)}
	case reflect.TypeFor[Action]():
		return map[string]any{"enum": []Action{ActionTrim, ActionPrune, ActionDelete, ActionSeed, ActionAll}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Struct:
		return shape(t)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Uint64, reflect.Int:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	}
	return map[string]any{"type": "string"}
}
