// Reads YAML as kubectl does, for tests/it/manifest.rs: each line of stdin is a file in base64, each line of stdout is
// what kubectl's packages make of it.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// document is what Go makes of one document; numbers are text, so that none is rounded on the way to the test.
type document struct {
	Value any    `json:"value"`
	Error string `json:"error,omitempty"`
}

type file struct {
	// Stream is the file as kubectl reads it: until the first error, JSON before YAML, null documents left out.
	Stream      []any  `json:"stream"`
	StreamError string `json:"streamError,omitempty"`
	// Chunks is every part between separators for itself.
	Chunks     []document `json:"chunks"`
	ChunkError string     `json:"chunkError,omitempty"`
}

// raw keeps a document's JSON, as runtime.RawExtension does in kubectl.
type raw struct{ data []byte }

func (r *raw) UnmarshalJSON(data []byte) error {
	r.data = bytes.Clone(data)
	return nil
}

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	for {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		check(err)
		data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		check(err)
		check(encoder.Encode(read(data)))
	}
	check(out.Flush())
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func read(data []byte) (result file) {
	result.Stream = []any{}
	result.Chunks = []document{}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		var next raw
		err := decode(decoder, &next)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			result.StreamError = err.Error()
			break
		}
		next.data = bytes.TrimSpace(next.data)
		if len(next.data) == 0 || bytes.Equal(next.data, []byte("null")) {
			continue
		}
		value, err := tagged(next.data)
		if err != nil {
			result.StreamError = err.Error()
			break
		}
		result.Stream = append(result.Stream, value)
	}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		chunk, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return result
		}
		if err != nil {
			result.ChunkError = err.Error()
			return result
		}
		result.Chunks = append(result.Chunks, one(chunk))
	}
}

// go-yaml has been seen to panic.
func decode(decoder *utilyaml.YAMLOrJSONDecoder, into *raw) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("panic: %v", reason)
		}
	}()
	return decoder.Decode(into)
}

func one(chunk []byte) (result document) {
	defer func() {
		if reason := recover(); reason != nil {
			result = document{Error: fmt.Sprintf("panic: %v", reason)}
		}
	}()
	data, err := yaml.YAMLToJSON(chunk)
	if err != nil {
		return document{Error: err.Error()}
	}
	value, err := tagged(data)
	if err != nil {
		return document{Error: err.Error()}
	}
	return document{Value: value}
}

// tagged writes numbers as "n:12" and texts as "s:12".
func tagged(data []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	return tag(value), nil
}

func tag(value any) any {
	switch value := value.(type) {
	case json.Number:
		return "n:" + value.String()
	case string:
		return "s:" + value
	case []any:
		for i := range value {
			value[i] = tag(value[i])
		}
	case map[string]any:
		for key := range value {
			value[key] = tag(value[key])
		}
	}
	return value
}
