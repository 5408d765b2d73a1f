package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// schema is a JSON schema (2020-12), as OpenAPI 3.1 has them.
type schema map[string]any

func ref(name string) schema { return schema{"$ref": "#/components/schemas/" + name} }

func array(of schema) schema { return schema{"type": "array", "items": of} }

func str(doc string) schema { return schema{"type": "string", "description": doc} }

// envelope is an answer about rows.
func envelope(props schema) schema {
	var required []string
	for name := range props {
		required = append(required, name)
	}
	props["as_of"] = schema{"type": "object", "additionalProperties": ref("Freshness"), "description": "How current each region is that the answer covers."}
	props["unreachable"] = schema{"type": "array", "items": schema{"type": "string"}, "description": "Those of them whose rows may be out of date."}
	props["not_deciding"] = str("Why this hub decides nothing, as when another one has its ledger; absent: it decides.")
	required = append(required, "as_of", "unreachable")
	slices.Sort(required)
	return schema{"type": "object", "properties": props, "required": required}
}

// document is the OpenAPI document of the operations.
func document(ops []*operation) ([]byte, error) {
	schemas := schema{}
	for _, r := range append(resources(), eventRows()) {
		addShape(schemas, r.typ.Shape)
	}
	for _, t := range []*query.Type{
		doneType, forgetType, documentsType, appliedType, whyType, scopeType, joinType, explainedType, testedType, trimsType, auditRowType, auditHeadType, auditProblemType, breakerType, closeType, carryType, carriedType, pruneType, prunedType, query.TypeOf[Problem]("problems", nil, "code"),
		query.TypeOf[catalog.Freshness]("freshness", values, "state"),
	} {
		addShape(schemas, t.Shape)
	}
	schemas["Group"] = schema{
		"type": "object", "description": "The values grouped by, by the names of their fields, and:",
		"required": []string{"count"}, "additionalProperties": true,
		"properties": schema{
			"count":             schema{"type": "integer", "minimum": 0},
			"bytes":             schema{"type": []string{"integer", "null"}, "minimum": 0, "description": "Sum over the rows whose bytes are known; null: of none."},
			"bytes_unknown":     schema{"type": "integer", "minimum": 0, "description": "Rows whose bytes are not known."},
			"oldest_created_at": schema{"type": []string{"string", "null"}, "format": "date-time", "description": "Restore points: when the oldest was made."},
		},
	}
	paths := schema{}
	for _, op := range ops {
		item, ok := paths[op.path].(schema)
		if !ok {
			item = schema{}
			paths[op.path] = item
		}
		item[map[string]string{"GET": "get", "POST": "post"}[op.method]] = op.describe()
	}
	doc := schema{
		"openapi": "3.1.0",
		"info": schema{
			"title": "Quarry hub", "version": "v1",
			"description": "Every slate of every region in one place. Inside v1 things are added and never taken away: ignore fields you do not know. " +
				"Integers use all 64 bits. With fields, rows have what was asked for and nothing else.",
			"license": schema{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers":    []schema{{"url": "http://127.0.0.1:7700"}},
		"paths":      paths,
		"components": schema{"schemas": schemas},
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("OpenAPI document: %w", err)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

func (op *operation) describe() schema {
	out := schema{"operationId": op.id, "summary": op.summary}
	if op.doc != "" {
		out["description"] = op.doc
	}
	var params []schema
	if op.named {
		params = append(params, schema{"name": "name", "in": "path", "required": true, "schema": schema{"type": "string"}})
	}
	for _, p := range op.params {
		s := schema{"name": p.name, "in": p.in, "description": p.doc, "schema": schema{"type": p.kind}}
		if p.kind == "integer" {
			s["schema"] = schema{"type": "integer", "minimum": 0}
		}
		if p.example != "" {
			s["example"] = p.example
			if n, err := strconv.Atoi(p.example); err == nil && p.kind == "integer" {
				s["example"] = n
			}
		}
		params = append(params, s)
	}
	if params != nil {
		out["parameters"] = params
	}
	if op.body != nil {
		out["requestBody"] = schema{"required": true, "content": schema{"application/json": schema{"schema": ref(op.body.Shape.Name)}}}
	}
	media, answer := or(op.plain, "application/json"), op.answer
	if op.stream {
		media, answer = "text/event-stream", schema{"type": "string"}
	}
	responses := schema{"200": schema{"description": "As asked.", "content": schema{media: schema{"schema": answer}}}}
	for _, status := range op.refuses {
		responses[strconv.Itoa(status)] = refusal(refusals[status])
	}
	responses["default"] = refusal("Refused or failed.")
	out["responses"] = responses
	return out
}

var refusals = map[int]string{
	400: "The request cannot be understood; column and caret say where.",
	403: "Sent by another web site's page.",
	404: "There is no such thing.",
	409: "Refused by a rule or a precondition; code says which.",
	410: "Those events are not kept any more.",
	413: "The body is too large.",
	415: "The body is not JSON.",
	422: "The idempotency key was used for another request.",
	503: "Not now; Retry-After says when.",
}

func refusal(doc string) schema {
	return schema{"description": doc, "content": schema{"application/problem+json": schema{"schema": ref("Problem")}}}
}

// addShape adds the schema of a struct and of what it holds.
func addShape(to schema, s *query.Shape) {
	if to[s.Name] != nil {
		return
	}
	props, required := schema{}, []string{}
	to[s.Name] = schema{"type": "object", "properties": props}
	for _, f := range s.Fields {
		if f.Sub != nil {
			addShape(to, f.Sub)
		}
		props[f.Name] = fieldSchema(f)
		if !f.OmitEmpty {
			required = append(required, f.Name)
		}
	}
	if len(required) > 0 {
		to[s.Name].(schema)["required"] = required
	}
}

func fieldSchema(f *query.Field) schema {
	t := f.Type()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var s schema
	switch f.Kind {
	case query.Record:
		if f.Nullable {
			s = schema{"anyOf": []schema{ref(f.Sub.Name), {"type": "null"}}}
			if f.Doc != "" {
				s["description"] = f.Doc
			}
			return s
		}
		return ref(f.Sub.Name)
	case query.Records:
		s = array(ref(f.Sub.Name))
	case query.List:
		s = array(scalarSchema(f.Elem, t.Elem()))
	case query.Map:
		s = schema{"type": "object", "additionalProperties": scalarSchema(f.Elem, t.Elem())}
	default:
		s = scalarSchema(f.Kind, t)
	}
	if f.Nullable {
		s["type"] = []string{s["type"].(string), "null"}
	}
	if f.Values != nil {
		// Not enum: a later hub may have more.
		s["examples"] = f.Values
	}
	if f.Doc != "" {
		s["description"] = f.Doc
	}
	return s
}

func scalarSchema(k query.Kind, t reflect.Type) schema {
	switch {
	case k == query.Text:
		return schema{"type": "string"}
	case k == query.Bool:
		return schema{"type": "boolean"}
	case k == query.Time:
		return schema{"type": "string", "format": "date-time"}
	case t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint64:
		return schema{"type": "integer", "minimum": 0}
	case t.Kind() == reflect.Float64 || t.Kind() == reflect.Float32:
		return schema{"type": "number"}
	}
	return schema{"type": "integer"}
}
