package hubapi

import (
	"bytes"
	"encoding"
	"encoding/json"
	"net/http"
	"path"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// object is a JSON object.
type object = map[string]any

func documentRoutes() []Route {
	return []Route{{
		Method: "GET", Pattern: "/openapi.json", Need: Anyone, Summary: "This document", Answer: object{},
		Do: func(API, *Call) (any, error) {
			b, err := Document()
			return json.RawMessage(b), err
		},
	}}
}

// Document is the OpenAPI 3.1 document of the table.
func Document() ([]byte, error) {
	d := documenter{schemas: object{}, types: map[string]reflect.Type{}}
	d.schema(reflect.TypeFor[Error]())
	paths := object{}
	for _, r := range Routes() {
		item, ok := paths[r.Pattern].(object)
		if !ok {
			item = object{}
			paths[r.Pattern] = item
		}
		item[strings.ToLower(r.Method)] = d.operation(r)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Strake Hub", "version": "1",
			"description": "Names of repositories are written with %2F for their slashes. A call needs what x-need says: what the caller may not see is not found.",
		},
		"servers":  []any{object{"url": prefix}},
		"paths":    paths,
		"security": []any{object{}, object{"password": []string{}}, object{"token": []string{}}, object{"session": []string{}}},
		"components": object{
			"schemas": d.schemas,
			"securitySchemes": object{
				"password": object{"type": "http", "scheme": "basic", "description": "Name and password, or name and token"},
				"token":    object{"type": "http", "scheme": "bearer", "description": "A personal token or a robot's"},
				"session":  object{"type": "apiKey", "in": "cookie", "name": "__Host-strake"},
			},
			"responses": object{"Error": object{
				"description": "What is wrong", "content": object{"application/json": object{"schema": object{"$ref": "#/components/schemas/Error"}}},
			}},
		},
	})
	return b.Bytes(), err
}

// documenter collects the schemas of named types.
type documenter struct {
	schemas object
	types   map[string]reflect.Type // by their names in the document
}

var wildcard = regexp.MustCompile(`\{(\w+)\}`)

func (d documenter) operation(r Route) object {
	params := []any{}
	for _, m := range wildcard.FindAllStringSubmatch(r.Pattern, -1) {
		params = append(params, object{"name": m[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	for _, p := range r.Query {
		params = append(params, object{"name": p.Name, "in": "query", "description": p.Text, "schema": object{"type": "string"}})
	}
	status, answer := r.Status, object{"description": "Done"}
	if r.Answer != nil {
		answer["content"] = object{"application/json": object{"schema": d.schema(reflect.TypeOf(r.Answer))}}
	}
	switch {
	case status == 0 && r.Answer == nil:
		status = http.StatusNoContent
	case status == 0:
		status = http.StatusOK
	}
	op := object{
		"operationId": operationID(r), "summary": r.Summary, "x-need": r.Need, "parameters": params,
		"responses": object{strconv.Itoa(status): answer, "default": object{"$ref": "#/components/responses/Error"}},
	}
	if r.Body != nil {
		op["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": d.schema(reflect.TypeOf(r.Body))}}}
	}
	return op
}

// operationID is get_accounts_account_tokens.
func operationID(r Route) string {
	words := strings.FieldsFunc(strings.ToLower(r.Method)+r.Pattern, func(c rune) bool { return c < 'a' || c > 'z' })
	return strings.Join(words, "_")
}

// schema describes a type as encoding/json writes it.
func (d documenter) schema(t reflect.Type) object {
	switch {
	case t.Kind() == reflect.Pointer:
		return d.schema(t.Elem())
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]() || t.Kind() == reflect.Interface:
		return object{}
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice, reflect.Array:
		return object{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.schema(t.Elem())}
	case reflect.Struct:
		return d.structure(t)
	}
	return object{"type": "integer"}
}

// structure describes a struct, under its name where it has one.
func (d documenter) structure(t reflect.Type) object {
	name := typeName(t)
	if other, seen := d.types[name]; seen && other != t { // of another package
		name = path.Base(t.PkgPath()) + name
	}
	ref := object{"$ref": "#/components/schemas/" + name}
	if _, seen := d.types[name]; name != "" && seen {
		return ref
	}
	properties, required := object{}, []string{}
	s := object{"type": "object", "properties": properties}
	if name != "" {
		d.schemas[name], d.types[name] = s, t
	}
	for _, f := range reflect.VisibleFields(t) {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && tag == "" || !f.IsExported() || tag == "-" {
			continue
		}
		if tag == "" {
			tag = f.Name
		}
		properties[tag] = d.schema(f.Type)
		if !strings.Contains(options, "omit") {
			required = append(required, tag)
		}
	}
	if len(required) > 0 {
		s["required"] = required
	}
	if name == "" {
		return s
	}
	return ref
}

// typeName is a type's name for people: Page[strake/internal/auth.Account] is
// PageAccount.
func typeName(t reflect.Type) string {
	name, argument, generic := strings.Cut(t.Name(), "[")
	if generic {
		name += strings.TrimPrefix(path.Ext(strings.TrimSuffix(argument, "]")), ".")
	}
	return name
}
