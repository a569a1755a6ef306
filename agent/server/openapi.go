package server

//go:generate go run ../../internal/gen/openapi -out ../../docs/reference/openapi.json

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// config is huma's: JSON only, no pages, the API's own error shape.
func config() huma.Config {
	c := huma.DefaultConfig("weft host API", fabric.APIVersion)
	c.Info.Description = "Every agent answers this API for the whole fabric: on its unix socket for root and the group weft, and over mutual TLS for holders of a certificate of the fabric's CA."
	c.DocsPath, c.SchemasPath = "", ""
	c.CreateHooks = nil // no $schema links: answers are the nouns themselves
	c.Formats = map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat}
	c.Transformers = []huma.Transformer{shape}
	c.RejectUnknownQueryParameters = true
	return c
}

// finish tells the document what huma cannot see: the one error shape, and which objects an apply takes.
func finish(doc *huma.OpenAPI) {
	reg := doc.Components.Schemas
	failed := reg.Schema(reflect.TypeFor[api.Error](), true, "Error")
	for _, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Delete} {
			if op == nil {
				continue
			}
			op.Responses["default"] = &huma.Response{
				Description: "Error", Content: map[string]*huma.MediaType{"application/json": {Schema: failed}},
			}
		}
	}
	delete(reg.Map(), "ErrorModel")
	delete(reg.Map(), "ErrorDetail")
	for _, name := range []string{"Session", "Path", "Hop", "Step"} {
		if s := reg.Map()[name]; s != nil && s.Properties["label"] != nil {
			s.Properties["label"] = &huma.Schema{Type: huma.TypeString, Description: "64-bit label as a decimal string, which JavaScript reads without loss"}
		}
	}
	var settable []*huma.Schema
	for _, r := range api.Resources() {
		if r.Settable {
			settable = append(settable, &huma.Schema{Ref: "#/components/schemas/" + string(r.Kind)})
		}
	}
	if apply := reg.Map()["ApplyRequest"]; apply != nil {
		apply.Properties["objects"].Items = &huma.Schema{OneOf: settable}
	}
}

// Document is the OpenAPI document of the API, indented; docs/reference/openapi.json is this.
func Document() ([]byte, error) {
	b, err := json.MarshalIndent(New(Options{}).api.OpenAPI(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	return append(b, '\n'), nil
}
